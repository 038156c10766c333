"""Templates in the documentation are true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from labd.template import load
from labd.template.form import NodeForm
from labd.template.network_form import LinkForm, NetworkForm
from labd.template.node_parts import CloudInitForm, NicForm
from labd.template.parameters import TYPES

DOCS = Path(__file__).resolve().parents[2] / "docs"
FORMS = (NetworkForm, LinkForm, NodeForm, NicForm, CloudInitForm)
BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEMPLATES = [
    pytest.param(block, id=f"{path.name}-{number}")
    for path in (DOCS / "templates.md", DOCS / "tutorial.md")
    for number, block in enumerate(BLOCK.findall(path.read_text()))
    if "nodes:" in block
]


@pytest.mark.parametrize("text", TEMPLATES)
def test_a_template_in_the_documentation_compiles(text: str) -> None:
    settings = {"image": "tiny"} if "no default" in text else {}
    assert load(text, "docs.yaml", settings).nodes


def test_the_reference_has_every_key() -> None:
    text = (DOCS / "templates.md").read_text()
    keys = {key for form in FORMS for key in form.model_fields}
    assert [word for word in sorted(keys | set(TYPES)) if f"`{word}" not in text] == []
