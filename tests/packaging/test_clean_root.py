"""labd on a system that has never seen it: by apt, and by pipx."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from labd import __version__
from tests.packaging.conftest import INSTALL, LOOKED_WITH, Clean

pytestmark = pytest.mark.packages
WANTS = "/etc/systemd/system/multi-user.target.wants"
COMPLETE = """
. /usr/share/bash-completion/bash_completion
COMP_WORDS=(lab check); COMP_CWORD=1; COMP_LINE="lab check"; COMP_POINT=${#COMP_LINE}
_completion_loader lab || true
_lab_completion lab 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""
# Ends by itself, with the namespaces that it is in.
SERVE = """
ip link set lo up
labd serve >/root/serve.log 2>&1 &
for _ in $(seq 300); do lab --json version >/dev/null 2>&1 && break; sleep 0.2; done
"""


def test_apt_installs_all_of_it(installed: Clean, with_labd: tuple[Path, str]) -> None:
    clean = installed
    assert "the system-wide mosquitto was left off" in with_labd[1]
    assert clean.run("labd --version").strip() == f"labd {__version__}"
    assert "checkpoint" in clean.run("lab --help")
    for page in ("lab.1", "lab-up.1", "labd.8", "labd.toml.5"):
        name, _, section = page.rpartition(".")
        assert name.upper() in clean.run(f"man {section} {name} | cat")
    (clean.folder / "root" / "complete").write_text(COMPLETE)
    assert clean.run("bash /root/complete").split() == ["checkpoint"]
    verified = clean.run("systemd-analyze verify labd.service")
    # systemd before 254 does not know it, and says that it goes on without.
    assert [line for line in verified.splitlines() if "DelegateSubgroup" not in line] == []
    assert clean.run("systemctl is-enabled labd.service").strip() == "enabled"
    assert clean.exists(f"{WANTS}/labd.service")
    assert clean.run("getent group labd").startswith("labd:x:")
    # Compiled at once: `lab` starts quickly for users who may write nothing there.
    assert clean.run("find /usr/lib/labd -name main.cpython-*.pyc -path */cli/*").strip()


def test_a_lab_runs_on_what_the_package_depends_on(installed: Clean) -> None:
    clean = installed
    up = "lab image build bootsector; lab up bootsector --timeout 120"
    printed = clean.run(f"{SERVE}{up}; lab destroy bootsector")
    assert "bootsector is up" in printed
    assert "bootsector is destroyed" in printed


def test_mosquitto_that_comes_along_is_off_and_stays_off(installed: Clean) -> None:
    clean = installed
    assert not clean.exists(f"{WANTS}/mosquitto.service")
    assert not clean.exists("/etc/systemd/system/mosquitto.service")
    clean.run("dpkg-reconfigure -fnoninteractive mosquitto")  # what an upgrade runs
    assert not clean.exists(f"{WANTS}/mosquitto.service")
    clean.run("systemctl enable mosquitto.service")
    clean.run("dpkg-reconfigure -fnoninteractive labd")
    assert clean.exists(f"{WANTS}/mosquitto.service")


def test_mosquitto_that_was_there_before_stays_on(clean: Clean) -> None:
    clean.run(f"{INSTALL} mosquitto systemd")
    assert clean.exists(f"{WANTS}/mosquitto.service")
    printed = clean.run(f"{INSTALL} /root/labd.deb {LOOKED_WITH}")
    assert "mosquitto was left off" not in printed
    assert clean.exists(f"{WANTS}/mosquitto.service")


def test_an_upgrade_leaves_a_unit_off_that_was_switched_off(installed: Clean) -> None:
    clean = installed
    clean.run("systemctl disable labd.service && dpkg -i /root/labd.deb")
    assert not clean.exists(f"{WANTS}/labd.service")


def test_purge_leaves_labs_and_says_so(installed: Clean) -> None:
    # A daemon by hand, which has ended with its namespaces.
    installed.run(f"{SERVE}lab image build bootsector")
    printed = installed.run("apt-get -y purge labd")
    assert "kept in /var/lib/labd; rm -r /var/lib/labd removes them" in printed
    assert installed.exists("/var/lib/labd/images")
    assert not installed.exists("/var/cache/labd")
    assert installed.run("getent group labd || echo gone").strip() == "gone"
    kept = ("/var/lib/labd/", "/run/labd/")
    assert {file for file in of_labd(installed) if not file.startswith(kept)} == set()


def test_removal_names_the_labs_that_run_on(installed: Clean) -> None:
    up = "lab image build bootsector; lab up bootsector --timeout 120"
    # The daemon was started by hand, so it goes on; the package finds it by its socket.
    count = "ls -d /proc/[0-9]*/exe | xargs -n1 readlink | grep -c qemu-system"
    printed = installed.run(f"{SERVE}{up}; apt-get -y remove labd; {count}")
    assert "machines of these labs run on" in printed
    assert "when it is installed again: bootsector\n" in printed
    assert printed.splitlines()[-1] == "1"


def test_purge_of_an_unused_labd_leaves_nothing(installed: Clean) -> None:
    assert {"/usr/bin/lab", "/usr/bin/labd"} <= files(installed)
    assert f"{WANTS}/labd.service" in of_labd(installed)
    assert "kept" not in installed.run("apt-get -y purge labd")
    assert of_labd(installed) == set()


def with_network(clean: Clean, package: str) -> None:
    """Install a package of Debian's that is not in the cache."""
    fetch = ["chroot", str(clean.folder), "sh", "-c", f"{INSTALL} {package}"]
    subprocess.run(fetch, check=True, capture_output=True, timeout=600)


def of_labd(clean: Clean) -> set[str]:
    """Return the files of labd, but for the package itself."""
    ours = {file for file in files(clean) if "labd" in file or file == "/usr/bin/lab"}
    others = ("/root/labd.deb", "/var/cache/apt/", "/etc/dpkg/dpkg.cfg.d/labd-tests")
    return {file for file in ours if not file.startswith(others)}


def files(clean: Clean) -> set[str]:
    return set(clean.run("find / -xdev -path /proc -prune -o ! -type d -print").splitlines())


def test_pipx_installs_the_wheel(clean: Clean, wheels: Path) -> None:
    with_network(clean, "pipx")
    subprocess.run(["cp", "-r", wheels, clean.folder / "root" / "wheels"], check=True)
    # Newer ones upgrade a pip of their own as well.
    offline = "export PIP_NO_INDEX=1 PIP_FIND_LINKS=/root/wheels"
    clean.run(f"{offline}; cd /root && pipx install /root/wheels/labd-*.whl")
    path = "PATH=/root/.local/bin:$PATH"
    assert clean.run(f"{path} labd --version").strip() == f"labd {__version__}"
    assert "checkpoint" in clean.run(f"{path} lab --help")
    assert "complete -o nosort" in clean.run(f"{path} lab completion bash")
    assert clean.run("find /root/.local /opt -name lab-up.1 | head -n 1").strip()
    # The unit comes along, for who wants a service of it.
    assert clean.run("find /root/.local -name labd.service").strip()


def test_lintian_finds_no_error(clean: Clean) -> None:
    with_network(clean, "lintian")
    clean.run("lintian --allow-root --fail-on error,warning /root/labd.deb")
