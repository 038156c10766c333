"""What the recipes make, as images of the store that lack only a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from labd.images import debian as debian_recipe
from labd.images import tiny as tiny_recipe
from labd.images.intake import inspect_file
from labd.model.images import Image, ImageFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """An image that was built.

    Attributes:
        image: What it is; name, digest and size are the store's to say.
        parts: Part name -> file.
    """

    image: Image
    parts: Mapping[str, Path]


def tiny(built: tiny_recipe.Built) -> Recipe:
    """Return the tiny guest or a flavour of it."""
    image = Image(
        name="",
        format=ImageFormat.KERNEL,
        digest="",
        size=0,
        cmdline=tiny_recipe.CMDLINE,
        ready_pattern=tiny_recipe.READY_PATTERN,
        agent=True,
    )
    return Recipe(image=image, parts={"kernel": built.kernel, "initrd": built.initrd})


def debian(built: debian_recipe.Built) -> Recipe:
    """Return the Debian machine; its disk is looked at like any other."""
    facts = inspect_file(built.disk, ImageFormat.QCOW2)
    image = Image(
        name="",
        format=facts.format,
        digest="",
        size=0,
        virtual_size=facts.virtual_size,
        cmdline=debian_recipe.CMDLINE,
        ready_pattern=debian_recipe.READY_PATTERN,
        agent=True,
        cloud_init=True,
    )
    parts = {"disk": built.disk, "kernel": built.kernel, "initrd": built.initrd}
    return Recipe(image=image, parts=parts)
