"""`impair` and `state` in templates."""

from __future__ import annotations

import pytest

from labd.model.errors import TemplateError
from labd.model.impairment import Impairment
from labd.model.specs import LabSpec, NicSpec
from labd.template import load

LAB = """name: t
links:
  wan:
    ends: ["a:eth0", "b:eth0"]
    {link}
networks: {{lan: }}
nodes:
  a:
    image: tiny
    nics:
      eth0: {{{end}}}
      eth1: {{network: lan, {nic}}}
  b: {{image: tiny}}
"""


def lab(link: str = "", end: str = "", nic: str = "") -> LabSpec:
    return load(LAB.format(link=link, end=end, nic=nic), "t.yaml")


def nics(spec: LabSpec) -> dict[str, NicSpec]:
    return {f"{node.name}/{nic.name}": nic for node in spec.nodes for nic in node.nics}


def test_a_link_says_it_for_both_ends() -> None:
    found = nics(lab("impair: {rate: 10mbit, delay: 20ms, loss: 1}\n    state: down"))
    for end in ("a/eth0", "b/eth0"):
        assert found[end].down
        assert found[end].sends == Impairment(rate=10_000_000, delay=0.02, loss=1.0)
    assert (found["a/eth1"].down, found["a/eth1"].sends) == (False, Impairment())


def test_a_nic_says_it_for_itself() -> None:
    found = nics(lab(end="impair: {corrupt: 0.5%}", nic="state: down, impair: {rate: 500kbit}"))
    assert found["a/eth0"].sends == Impairment(corrupt=0.5)
    assert found["b/eth0"].sends == Impairment()
    assert (found["a/eth1"].down, found["a/eth1"].sends.rate) == (True, 500_000)


@pytest.mark.parametrize(
    ("where", "text", "says"),
    [
        (
            "link",
            "impair: {rate: 10}",
            (
                "t.yaml:5:20: link wan, impair, rate: rate '10' is not valid: write it like "
                "10mbit or 500kbit"
            ),
        ),
        (
            "link",
            "impair: {delay: 20}",
            (
                "t.yaml:5:21: link wan, impair, delay: delay '20' is not valid: write it like "
                "20ms or 1.5s"
            ),
        ),
        (
            "link",
            "impair: {loss: 101%}",
            "t.yaml:5:20: link wan, impair, loss: loss must be 0% to 100%, not 101%",
        ),
        (
            "link",
            "impair: {jitter: 5ms}",
            "t.yaml:5:13: link wan: jitter varies a delay; give a delay too",
        ),
        (
            "nic",
            "impair: {rate: 100bit}",
            "t.yaml:12:36: node a, nic eth1: rate must be 8kbit to 10gbit, not 100bit",
        ),
        ("nic", "state: off", "t.yaml:12:35: node a, nic eth1, state: must be up or down"),
    ],
)
def test_bad_links(where: str, text: str, says: str) -> None:
    with pytest.raises(TemplateError) as caught:
        lab(**{where: text})
    assert str(caught.value) == says


def test_a_link_and_its_end_contradict_each_other() -> None:
    with pytest.raises(TemplateError) as caught:
        lab("impair: {rate: 1mbit}", end="impair: {rate: 2mbit}")
    assert str(caught.value) == (
        "t.yaml:11:14: node a, nic eth0: link wan has impair for both ends; keep one"
    )
