"""What cloud-init is told: the files of a seed, and the CD that they come on."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from pycdlib import PyCdlib

from labd.drivers.storage.local.seed import iso, write_seed
from labd.model.cloudinit import logins, network_config, seed
from labd.model.errors import InputError, StorageFailed
from labd.model.guestconfig import Resolver
from labd.model.specs import CloudInitSpec, NicSpec, NodeSpec, RouteSpec

KEY = "ssh-ed25519 AAAA lab"
MAC = "02:00:00:00:00:0"
NICS = (
    NicSpec(
        name="eth0",
        network="lan",
        mac=f"{MAC}1",
        addresses=("10.0.0.5/24", "fd00::5/64"),
        gateway="10.0.0.1",
    ),
    NicSpec(name="eth1", network="wan", mac=f"{MAC}2", dhcp=True),
)


def told(node: NodeSpec, **more: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return user-data, meta-data and network-config."""
    files = seed(node, uuid="u", **more)
    head, _, body = files["user-data"].decode().partition("\n")
    assert head == "#cloud-config"
    return json.loads(body), json.loads(files["meta-data"]), json.loads(files["network-config"])


def test_a_node_that_says_nothing_gets_its_name_and_keys() -> None:
    user, meta, network = told(NodeSpec(name="a"), authorized_keys=[KEY + "\n"])
    assert user == {"ssh_authorized_keys": [KEY]}
    assert meta["local-hostname"] == "a"
    assert network == {"config": "disabled"}


def test_every_user_of_the_template_gets_the_keys() -> None:
    config = {"users": ["default", {"name": "ada", "ssh_authorized_keys": ["own"]}, {"name": "b"}]}
    node = NodeSpec(name="a", cloud_init=CloudInitSpec(user_data=json.dumps(config)))
    user, _, _ = told(node, authorized_keys=[KEY])
    assert user["users"] == [
        "default",
        {"name": "ada", "ssh_authorized_keys": ["own", KEY]},
        {"name": "b", "ssh_authorized_keys": [KEY]},
    ]


def test_a_copy_lets_in_the_same_users() -> None:
    config = {"users": ["default", {"name": "ada", "ssh_authorized_keys": ["own"]}, {"name": "b"}]}
    node = NodeSpec(name="a", cloud_init=CloudInitSpec(user_data=json.dumps(config)))
    assert logins(node, [KEY]) == {"root": (KEY,), "ada": ("own", KEY), "b": (KEY,)}
    assert logins(NodeSpec(name="a"), [KEY]) == {"root": (KEY,)}


def test_the_network_follows_from_the_nics() -> None:
    node = NodeSpec(
        name="a",
        nics=NICS,
        routes=(
            RouteSpec(to="10.9.0.0/16", via="10.0.0.9"),
            RouteSpec(to="default", via="fd00::1"),
        ),
    )
    lan = Resolver(address="10.0.0.1", domain="lab")
    assert network_config(node, {"lan": 1400}, {"lan": lan, "wan": lan}) == {
        "version": 2,
        "ethernets": {
            "eth0": {
                "match": {"macaddress": f"{MAC}1"},
                "set-name": "eth0",
                "dhcp4": False,
                "dhcp6": False,
                "addresses": ["10.0.0.5/24", "fd00::5/64"],
                "routes": [
                    {"to": "0.0.0.0/0", "via": "10.0.0.1"},
                    {"to": "10.9.0.0/16", "via": "10.0.0.9"},
                    {"to": "::/0", "via": "fd00::1"},
                ],
                "mtu": 1400,
                "nameservers": {"addresses": ["10.0.0.1"], "search": ["lab"]},
            },
            "eth1": {
                "match": {"macaddress": f"{MAC}2"},
                "set-name": "eth1",
                "dhcp4": True,
                "dhcp6": False,
            },
        },
    }


def test_what_the_template_says_goes_first() -> None:
    own = CloudInitSpec(meta_data='{"role":"db"}', network_config='{"version":1,"config":[]}')
    _, meta, network = told(NodeSpec(name="a", nics=NICS, cloud_init=own))
    assert (meta["role"], network) == ("db", {"version": 1, "config": []})


def test_commands_forwarding_and_names_are_added() -> None:
    own = CloudInitSpec(user_data='{"runcmd":["first"]}')
    node = NodeSpec(name="a", cloud_init=own, forwarding=True, commands=(("echo", "x"),))
    user, _, _ = told(node, hosts={"a": "10.0.0.5", "b": "10.0.0.6"})
    assert user["runcmd"] == ["first", ["echo", "x"]]
    assert user["bootcmd"][0][:3] == ["sysctl", "-q", "-w"]
    assert user["write_files"] == [
        {"path": "/etc/hosts", "append": True, "content": "10.0.0.6 b\n"}
    ]


def test_the_instance_is_another_one_when_it_is_told_something_else() -> None:
    node = NodeSpec(name="a")
    same = [told(node)[1]["instance-id"] for _ in range(2)]
    other = told(node, authorized_keys=[KEY])[1]["instance-id"]
    assert same[0] == same[1] != other
    assert seed(node, uuid="v")["meta-data"] != seed(node, uuid="u")["meta-data"]


def test_a_stored_spec_with_a_bad_list_is_refused_in_words() -> None:
    own = CloudInitSpec(user_data='{"users":[{"name":"b","ssh_authorized_keys":"x"}]}')
    with pytest.raises(InputError) as caught:
        seed(NodeSpec(name="a", cloud_init=own), uuid="u", authorized_keys=[KEY])
    assert caught.value.message == (
        "node a, user b: ssh_authorized_keys in its user_data must be a list; labd adds to it"
    )


# The CD


def test_a_cd_has_the_label_and_the_files() -> None:
    files = {"user-data": b"x" * 5000, "meta-data": b"{}\n", "network-config": b"{}\n"}
    data = iso(files)
    disc = PyCdlib()
    disc.open_fp(io.BytesIO(data))
    assert disc.pvd.volume_identifier.decode().strip() == "cidata"
    for name, content in files.items():
        out = io.BytesIO()
        disc.get_file_from_iso_fp(out, joliet_path=f"/{name}")
        assert out.getvalue() == content
    disc.close()


def test_a_cd_does_not_say_when_it_was_made() -> None:
    files = {"user-data": b"x", "meta-data": b"y"}
    data = iso(files)
    disc = PyCdlib()
    disc.open_fp(io.BytesIO(data))
    times = [child.date.years_since_1900 for child in disc.list_children(joliet_path="/")]
    assert times == [80] * 4  # the folder, the one above it, and the files
    assert disc.pvd.volume_creation_date.year == 0
    disc.close()
    assert iso(files) == data


def test_a_seed_takes_the_place_of_another_one_and_follows_no_link(tmp_path: Path) -> None:
    path = tmp_path / "node" / "seed.iso"
    write_seed(path, {"user-data": b"one"})
    victim = tmp_path / "victim"
    victim.write_bytes(b"safe")
    (path.parent / ".seed.iso").symlink_to(victim)
    write_seed(path, {"user-data": b"two"})
    assert path.read_bytes() == iso({"user-data": b"two"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert victim.read_bytes() == b"safe"
    assert [item.name for item in path.parent.iterdir()] == ["seed.iso"]


def test_no_room_for_a_seed_is_told(tmp_path: Path) -> None:
    (tmp_path / "node").write_text("a file where a folder is wanted")
    with pytest.raises(StorageFailed, match=r"^cannot make disk seed\.iso: "):
        write_seed(tmp_path / "node" / "seed.iso", {"user-data": b"x"})
