"""The systemd unit promises what the daemon relies on."""

from __future__ import annotations

from configparser import ConfigParser
from importlib.resources import files

from labd.host import cgroups


def test_the_unit_keeps_machines_and_their_sockets_over_a_stop() -> None:
    unit = ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string((files("labd") / "systemd" / "labd.service").read_text())
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["KillMode"] == "process"
    assert (service["Delegate"], service["DelegateSubgroup"]) == ("yes", cgroups.SUBGROUP)
    assert service["RuntimeDirectoryPreserve"] == "yes"
    assert service["StateDirectoryMode"] == "0711"
    assert service["ExecStart"].split() == ["labd", "serve"]
