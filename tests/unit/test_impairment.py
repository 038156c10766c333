"""Impairments as people write them, and the requests that they become."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from pyroute2 import IPBatch

from labd.drivers.network.linux.shaping import ROOT, QueueRequest, plan_shapes, queue_requests
from labd.model.errors import InputError
from labd.model.impairment import Impairment, check, describe, parse
from labd.model.links import LinkRecord, ShapePlan, with_links
from labd.model.specs import LabSpec, NetworkSpec, NicSpec, NodeSpec


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("rate", "10mbit", 10_000_000),
        ("rate", "1.5 Mbit", 1_500_000),
        ("rate", "none", 0),
        ("delay", "20ms", 0.02),
        ("jitter", "500us", 0.0005),
        ("delay", "1.5s", 1.5),
        ("loss", "1%", 1.0),
        ("loss", "0.25", 0.25),
        ("corrupt", "0", 0),
    ],
)
def test_values_are_read(name: str, text: str, value: float) -> None:
    assert parse(name, text) == value


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("rate", "10", "rate '10' is not valid: write it like 10mbit or 500kbit"),
        ("rate", "10MB", "rate '10MB' is not valid: write it like 10mbit or 500kbit"),
        ("delay", "20", "delay '20' is not valid: write it like 20ms or 1.5s"),
        ("jitter", "-1ms", "jitter '-1ms' is not valid: write it like 20ms or 1.5s"),
        ("loss", "much", "loss 'much' is not valid: write a percentage, like 0.5%"),
    ],
)
def test_wrong_units_are_told(name: str, text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(name, text)
    assert caught.value.message == says


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Impairment(loss=101), "loss must be 0% to 100%, not 101%"),
        (Impairment(rate=100), "rate must be 8kbit to 10gbit, not 100bit"),
        (Impairment(delay=61), "delay must be at most 60s, not 61s"),
        (Impairment(jitter=0.1), "jitter varies a delay; give a delay too"),
        (
            Impairment(delay=0.01, jitter=0.02),
            "jitter 20ms is more than the delay, 10ms; give less",
        ),
    ],
)
def test_what_makes_no_sense_is_told(value: Impairment, says: str) -> None:
    with pytest.raises(InputError) as caught:
        check(value)
    assert caught.value.message == says


def test_an_impairment_is_shown_as_it_is_written() -> None:
    all_of_it = Impairment(
        rate=1_500_000, delay=0.02, jitter=0.005, loss=1, duplicate=0.5, corrupt=0.1
    )
    assert describe(all_of_it) == (
        "rate 1.5mbit, delay 20ms, jitter 5ms, loss 1%, duplicate 0.5%, corrupt 0.1%"
    )
    assert describe(Impairment()) == ""


def test_a_rate_is_one_token_bucket() -> None:
    assert queue_requests(Impairment(rate=10_000_000)) == [
        QueueRequest(
            kind="tbf",
            handle=0x100000,
            parent=ROOT,
            options={"rate": 1_250_000, "burst": 16384, "limit": 141384},
        )
    ]


def test_the_emulator_is_around_the_bucket() -> None:
    worst = Impairment(rate=1_000_000, delay=0.02, jitter=0.005, loss=1, duplicate=2, corrupt=3)
    assert queue_requests(worst) == [
        QueueRequest(
            kind="netem",
            handle=0x10000,
            parent=ROOT,
            options={
                "limit": 10_000,
                "delay": 20_000,
                "jitter": 5_000,
                "loss": 1,
                "duplicate": 2,
                "prob_corrupt": 3,
            },
        ),
        QueueRequest(
            kind="tbf",
            handle=0x100000,
            parent=0x10001,
            options={"rate": 125_000, "burst": 16384, "limit": 81920},
        ),
    ]
    assert queue_requests(Impairment()) == []


def _nic(network: str, **more: object) -> NicSpec:
    return NicSpec(name=f"to-{network}", network=network, mac="", **more)  # type: ignore[arg-type]


SLOW = Impairment(rate=1_000_000)
LAB = LabSpec(
    template="t",
    networks=(NetworkSpec(name="wan", link=True), NetworkSpec(name="lan")),
    nodes=(
        NodeSpec(name="a", nics=(_nic("wan", sends=SLOW), _nic("lan", sends=SLOW))),
        NodeSpec(name="b", nics=(_nic("wan"), _nic("lan"))),
    ),
)


def test_a_link_is_impaired_at_its_far_end_and_a_network_at_the_sender() -> None:
    assert plan_shapes(LAB, {"a": "aaaaaa", "b": "bbbbbb"}) == (
        ShapePlan(tap="taaaaaa0", device="tbbbbbb0", ifb=False, sends=SLOW),
        ShapePlan(tap="taaaaaa1", device="faaaaaa1", ifb=True, sends=SLOW),
    )
    assert [shape.ifb for shape in plan_shapes(LAB, {"a": "aaaaaa"})] == [True]
    assert plan_shapes(LAB, {"b": "bbbbbb"}) == ()


def test_records_go_over_what_the_template_says() -> None:
    said = [
        LinkRecord(lab="t", node="a", nic="to-wan", down=True),
        LinkRecord(lab="t", node="b", nic="to-lan", sends=SLOW),
        LinkRecord(lab="t", node="a", nic="to-lan", sends=Impairment()),
        LinkRecord(lab="t", node="gone", nic="x", down=True),
    ]
    found = with_links(LAB, said)
    a, b = found.nodes
    assert (a.nics[0].down, a.nics[0].sends) == (True, SLOW)
    assert not a.nics[1].sends
    assert (b.nics[0].down, b.nics[1].sends) == (False, SLOW)
    assert with_links(LAB, []) is LAB


def test_the_emulators_request_is_what_the_kernel_reads() -> None:
    """No emulator is needed to see the bytes: struct tc_netem_qopt, linux/pkt_sched.h."""
    [request] = queue_requests(Impairment(delay=0.02, jitter=0.005, loss=50, duplicate=1))
    with IPBatch() as batch:
        batch.tc("add", request.kind, 7, request.handle, parent=request.parent, **request.options)
        data = bytes(batch.batch)
    index, handle, parent = struct.unpack_from("=iII", data, 20)
    assert (index, handle, parent) == (7, 0x10000, ROOT)
    ticks = 1 / psched_tick()
    wanted = struct.pack(
        "=IIIIII",
        int(20_000 * ticks),
        10_000,
        0x7FFFFFFF,
        0,
        int((2**32 - 1) / 100),
        int(5_000 * ticks),
    )
    assert wanted in data


def psched_tick() -> float:
    """Return the microseconds of a tick of the kernel's packet scheduler."""
    ticks, microseconds, clock, _ = (
        int(word, 16) for word in Path("/proc/net/psched").read_text().split()
    )
    return microseconds / ticks * (1_000_000 / clock)
