"""Templates of labs for the tests of the API and of `lab`."""

from __future__ import annotations

from pathlib import Path

from labd.features.templates.shipped import ShippedTemplates

WEB = """\
name: web
parameters:
  memory: {type: size, default: 128 MiB, description: Each}
networks:
  lan: {subnet: 10.0.0.0/24}
nodes:
  a:
    image: tiny
    memory: ${memory}
    display: vnc
    nics: {eth0: {network: lan, address: 10.0.0.1/24}}
  b:
    image: tiny
    memory: ${memory}
    display: vnc
    nics: {eth0: {network: lan, address: 10.0.0.2/24}}
"""
HELLO = """\
name: hello
description: one node
parameters:
  memory: {type: size, default: 64 MiB}
nodes:
  hello: {image: tiny, memory: "${memory}"}
"""


def hello_only(root: Path) -> ShippedTemplates:
    """Return templates of which `hello` alone is shipped, in a new folder below `root`."""
    folder = root / "lab-templates"
    folder.mkdir()
    (folder / "hello.yaml").write_text(HELLO)
    return ShippedTemplates(folder)
