"""labd.toml: the defaults, all keys, and the message of each mistake."""

from __future__ import annotations

import re
import tomllib
from dataclasses import asdict
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labd.host import config
from labd.host.config import (
    Config,
    MemoryConfig,
    NetworkConfig,
    QuotasConfig,
    default_uid_base,
    load,
    parse,
)
from labd.host.config_values import UID_BLOCK
from labd.model.errors import ConfigError
from labd.model.specs import Accel


def test_no_file_and_an_empty_file_are_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path / "none.toml") == parse("") == Config()


def test_the_documented_example_is_the_defaults() -> None:
    assert config.__doc__ is not None
    example = "\n".join(
        line for line in config.__doc__.splitlines() if line.startswith("    ") or not line
    )
    assert parse(re.sub(r"(?m)^    ", "", example)) == Config()
    # And it shows every key there is.
    shown = {f"{s}.{k}" for s, keys in tomllib.loads(example).items() for k in keys}
    every = {f"{s}.{k}" for s, keys in asdict(Config()).items() for k in keys}
    assert shown == every - {"storage.classes"}, "each of those is a section of its own"


def test_every_key_is_read() -> None:
    read = parse(
        """
        [daemon]
        accel = "tcg"
        max_booting = 3
        memory_reserve_mib = 64
        uid_base = 300000
        group = "trainers"
        log_level = "debug"
        log_format = "json"
        [broker]
        mode = "external"
        url = "mqtts://broker.example:8883"
        username = "labd"
        password_file = "/etc/labd/password"
        ca_file = "/etc/labd/ca.pem"
        [network]
        bridges = ["br0"]
        outside = ["eth1"]
        closed = ["10.0.0.0/8"]
        transit = "100.64.0.0/20"
        [plugins]
        dirs = ["/opt/plugins"]
        [memory]
        ksm = "on"
        pause_below_mib = 256
        stall_percent = 0
        cgroups = "off"
        [quotas]
        nodes = 4
        vcpus = 8
        memory_mib = 2048
        disk_mib = 20480
        written_mib = 1024
        """
    )
    assert (read.daemon.accel, read.daemon.uid_base) == (Accel.TCG, 300000)
    assert read.broker.password_file == Path("/etc/labd/password")
    assert read.network == NetworkConfig(
        bridges=("br0",),
        outside=("eth1",),
        closed=(IPv4Network("10.0.0.0/8"),),
        transit=IPv4Network("100.64.0.0/20"),
    )
    assert read.plugins.dirs == (Path("/opt/plugins"),)
    assert read.memory == MemoryConfig(
        ksm="on", pause_below_mib=256, stall_percent=0, cgroups="off"
    )
    assert read.quotas == QuotasConfig(
        nodes=4, vcpus=8, memory_mib=2048, disk_mib=20480, written_mib=1024
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[daemon\n", "x:1:8: not valid TOML: Expected ']' at the end of a table declaration"),
        ("\n[deamon]\n", "x:2: unknown section 'deamon'; did you mean 'daemon'?"),
        ("daemon = 1\n", "x:1: 'daemon' must be a section: write [daemon]"),
        ("[daemon]\n\nacel = 1\n", "x:3: unknown key 'acel'; did you mean 'accel'?"),
        ("daemon.acel = 1\n", "x:1: unknown key 'acel'; did you mean 'accel'?"),
        (
            "[network]\nzzz = 1\n",
            "x:2: unknown key 'zzz'; known: bridges, closed, outside, transit",
        ),
        ('[daemon]\naccel = "hvf"\n', "x:2: accel = 'hvf': must be one of auto, kvm, tcg"),
        ("[daemon]\naccel = 1\n", "x:2: accel = 1: must be one of auto, kvm, tcg"),
        ("[daemon]\nmax_booting = -1\n", "x:2: max_booting = -1: must be 0 to 1000"),
        ("[daemon]\nmax_booting = true\n", "x:2: max_booting = true: must be a whole number"),
        (
            "[daemon]\nuid_base = 1000\n",
            "x:2: uid_base = 1000: must be 0 or 100000 to 2147482623, away from real users",
        ),
        ('[daemon]\ngroup = "A b"\n', "x:2: group = 'A b': is not a group name"),
        (
            '[daemon]\nlog_level = "loud"\n',
            "x:2: log_level = 'loud': must be one of debug, info, warning, error",
        ),
        ("[broker]\noutbox_days = 0\n", "x:2: outbox_days = 0: must be 1 to 3650"),
        ("[broker]\ntcp_port = 70000\n", "x:2: tcp_port = 70000: must be 0 to 65535"),
        (
            '[broker]\nmode = "external"\n',
            "x:2: an external broker needs a url, like mqtt://host:1883",
        ),
        (
            '[broker]\nurl = "mqtt://h:1"\n',
            'x:2: url is of an external broker: add mode = "external"',
        ),
        (
            '[broker]\nmode = "external"\nurl = "http://h"\n',
            "x:3: url = 'http://h': must be like mqtt://host:1883 or mqtts://host:8883",
        ),
        (
            '[broker]\nmode = "external"\nurl = "mqtt://u:p@h"\n',
            "x:3: url = 'mqtt://u:p@h': must not hold credentials: use username and password_file",
        ),
        (
            '[broker]\nmode = "external"\nurl = "mqtt://h"\ntcp_port = 5\n',
            "x:4: tcp_port is of a managed broker: put the port in url",
        ),
        ("[memory]\nksm = true\n", "x:2: ksm = true: must be one of auto, on, off"),
        (
            "[memory]\npause_below_mib = -1\n",
            "x:2: pause_below_mib = -1: must be 0 to 16777216",
        ),
        ("[memory]\nstall_percent = 101\n", "x:2: stall_percent = 101: must be 0 to 100"),
        ('[memory]\ncgroups = "v1"\n', "x:2: cgroups = 'v1': must be one of auto, off"),
        ("[quotas]\nnodes = 501\n", "x:2: nodes = 501: must be 0 to 500"),
        ('[quotas]\nvcpus = "4"\n', "x:2: vcpus = '4': must be a whole number"),
        ("[quotas]\nmemory_mib = -1\n", "x:2: memory_mib = -1: must be 0 to 16777216"),
        ("[quotas]\ndisk_mib = 0.5\n", "x:2: disk_mib = 0.5: must be a whole number"),
        ("[quotas]\nwritten_mib = -1\n", "x:2: written_mib = -1: must be 0 to 1073741824"),
        (
            "[quotas]\nmemory = 1\n",
            "x:2: unknown key 'memory'; did you mean 'memory_mib'?",
        ),
        ('[broker]\nca_file = "ca"\n', "x:2: ca_file = 'ca': must be an absolute path"),
        (
            '[network]\nbridges = "br0"\n',
            """x:2: bridges = 'br0': must be a list, like ["a", "b"]""",
        ),
        (
            '[network]\nclosed = ["10.0.0.1/8"]\n',
            "x:2: closed = ['10.0.0.1/8']: must be IPv4 subnets, like 10.0.0.0/8",
        ),
        (
            '[network]\ntransit = "10.0.0.0/29"\n',
            "x:2: transit = '10.0.0.0/29': must have a prefix length of 8 to 28",
        ),
        (
            '[network]\noutside = ["eth0:1"]\n',
            "x:2: outside = ['eth0:1']: is not an interface name",
        ),
        ('[network]\nbridges = ["a/b"]\n', "x:2: bridges = ['a/b']: is not an interface name"),
        (
            '[access]\nauthorized_keys = ["secret"]\n',
            (
                "x:2: authorized_keys = ['secret']: is no OpenSSH public key, like "
                '"ssh-ed25519 AAAA… name"'
            ),
        ),
        (
            '[access]\nauthorized_keys_file = "keys"\n',
            "x:2: authorized_keys_file = 'keys': must be an absolute path",
        ),
        (
            '[access]\nauthorized_keys_file = "/nothing/keys"\n',
            "x:2: authorized_keys_file: /nothing/keys cannot be read: No such file or directory",
        ),
        ("[plugins]\ndirs = [1]\n", "x:2: dirs = [1]: must be a string in quotes"),
    ],
)
def test_a_mistake_is_told_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, file="x")
    assert str(caught.value) == message


def test_keys_of_administrators_are_those_of_the_list_and_of_the_file(tmp_path: Path) -> None:
    first, second = (f"ssh-ed25519 {letter * 68} {letter}" for letter in "AB")
    file = tmp_path / "keys.pub"
    file.write_text(f"# instructors\n\n{second}\n")
    text = f'[access]\nauthorized_keys = ["{first}"]\nauthorized_keys_file = "{file}"\n'
    assert parse(text).access.authorized_keys == (first, second)
    file.write_text(f'{second}\ncommand="x" {first}\n')
    with pytest.raises(ConfigError) as caught:
        parse(text, file="x")
    assert str(caught.value) == (
        f'x:3: authorized_keys_file: {file}:2: is no OpenSSH public key, like "ssh-ed25519 AAAA… '
        'name"'
    )


def test_a_file_that_was_asked_for_must_be_there_and_be_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; write it or leave --config out"):
        load(tmp_path / "none.toml", required=True)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"binary\.toml: cannot be read: it is not UTF-8 text"):
        load(binary)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_no_text_brings_the_reader_down(text: str) -> None:
    try:
        parse(text)
    except ConfigError as error:
        assert str(error).startswith("labd.toml")


@given(st.text(min_size=1, max_size=60).filter(lambda t: "\0" not in t))
def test_the_ids_of_a_root_stay_in_range(name: str) -> None:
    base = default_uid_base(Path("/srv") / name.encode("utf-8", "replace").decode())
    assert 2_000_000_000 <= base < base + UID_BLOCK < 1 << 31
    assert (base - 2_000_000_000) % UID_BLOCK == 0
