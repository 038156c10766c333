"""The text that configures a guest."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labd.model.errors import InputError
from labd.model.guestconfig import first_addresses, guest_config, interface_name
from labd.model.specs import NicSpec, NodeSpec, RouteSpec

MAC = "02:00:00:00:00:01"
NIC = NicSpec(name="eth0", network="lan", mac=MAC, addresses=("10.0.0.1/24", "fd00::1/64"))
ROUTER = NodeSpec(
    name="router",
    nics=(NIC, NicSpec(name="eth1", network="wan", mac="02:00:00:00:00:02", gateway="10.1.0.254")),
    routes=(RouteSpec(to="10.9.0.0/16", via="10.0.0.9"), RouteSpec(to="default", via="10.0.0.8")),
    forwarding=True,
    commands=(("iperf3", "-s", "-D"), ("sh", "-c", "echo 'a b' > /run/x; $(id)")),
)


def test_whole_text() -> None:
    config = guest_config(
        ROUTER,
        hosts={"client": "10.0.0.2"},
        mtus={"wan": 1400, "lan": 1500},
        authorized_keys=["ssh-ed25519 AAAA someone\n".strip()],
    )
    assert config.decode() == (
        "hostname router\n"
        "nic 02:00:00:00:00:01 eth0\n"
        "address eth0 10.0.0.1/24\n"
        "address eth0 fd00::1/64\n"
        "nic 02:00:00:00:00:02 eth1\n"
        "mtu eth1 1400\n"
        "gateway eth1 10.1.0.254\n"
        "route 10.9.0.0/16 10.0.0.9\n"
        "route default 10.0.0.8\n"
        "forwarding on\n"
        "host client 10.0.0.2\n"
        "authorized-key ssh-ed25519 AAAA someone\n"
        "run\tiperf3\t-s\t-D\n"
        "run\tsh\t-c\techo 'a b' > /run/x; $(id)\n"
    )


def test_a_bare_node_has_only_its_name() -> None:
    assert guest_config(NodeSpec(name="a")) == b"hostname a\n"


def test_first_addresses() -> None:
    assert first_addresses([ROUTER, NodeSpec(name="mute")]) == {"router": "10.0.0.1"}


def test_interface_names_fit_linux_and_stay_distinct() -> None:
    assert interface_name("eth0") == "eth0"
    assert interface_name("a" * 15) == "a" * 15
    long = {interface_name("uplink-to-the-" + end) for end in ("east", "west", "north-east")}
    assert len(long) == 3
    assert all(len(name) == 15 for name in long)


BAD = [
    ({"commands": (("echo", "a\nb"),)}, "node n: 'a\\nb' has a control character in it"),
    ({"commands": (("echo", "a\tb"),)}, "node n: 'a\\tb' has a control character in it"),
    ({"commands": (("echo", "\x1b[0m"),)}, "node n: '\\x1b[0m' has a control character in it"),
    ({"commands": ((),)}, "node n: a command is empty"),
    ({"commands": (("echo", "", "b"),)}, "node n: command 'echo' has an empty argument"),
    ({"name": "n\nrun\tx"}, "cannot be a name; leave out the blanks"),
    ({"name": ""}, "node : '' cannot be a name"),
    ({"nics": (dataclasses.replace(NIC, mac="02:00"),)}, "nic 'eth0': '02:00' is no MAC address"),
    ({"nics": (dataclasses.replace(NIC, mac=MAC + "\n"),)}, "is no MAC address"),
    ({"nics": (dataclasses.replace(NIC, name="e 0"),)}, "'e 0' cannot be a name"),
    (
        {"nics": (dataclasses.replace(NIC, addresses=("10.0.0.1/33",)),)},
        "'10.0.0.1/33' is no address",
    ),
    ({"nics": (dataclasses.replace(NIC, gateway="10.0.0.1\n"),)}, "'10.0.0.1\\n' is no address"),
    ({"routes": (RouteSpec(to="all", via="10.0.0.1"),)}, "'all' is no network"),
    ({"routes": (RouteSpec(to="default", via="gw"),)}, "'gw' is no address"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_values_are_refused(change: dict[str, object], message: str) -> None:
    spec = dataclasses.replace(NodeSpec(name="n"), **change)  # type: ignore[arg-type] # on purpose
    with pytest.raises(InputError) as caught:
        guest_config(spec)
    assert message in caught.value.message


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4), st.text())
def test_no_value_makes_a_line_of_its_own(argv: list[str], key: str) -> None:
    try:
        config = guest_config(NodeSpec(name="n", commands=(tuple(argv),)), authorized_keys=[key])
    except InputError:
        return
    lines = config.decode().split("\n")
    assert [line.replace("\t", " ").split(" ")[0] for line in lines] == [
        "hostname",
        "authorized-key",
        "run",
        "",
    ]
    assert lines[2].split("\t")[1:] == argv
