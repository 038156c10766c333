"""Plugin processes: confined, supervised, never missing an event. Real broker, real API."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import signal
import stat
import subprocess
import sys
import venv
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

import labd
from labd.cli import plugin_new
from labd.features.plugins import leftovers
from labd.model.errors import ConfigError, NotFound
from labd.model.events import EventType
from labd.model.states import NodeState, PluginState
from tests.system.harness import is_alive
from tests.system.plugin_testbed import REPO, UID, PluginTestbed
from tests.system.plugin_testbed import testbed as open_testbed

SAY = """
@plugin.on("node.reset")
async def told(event: Event, lab: Client) -> None:
    print("heard", event.seq, flush=True)
"""
PROBE = """
import os
print("uids", *os.getresuid(), "gids", *os.getresgid(), "groups", *os.getgroups())
print(open("/proc/self/status").read())
print("settings", plugin.folder.resolve())
"""


@pytest.fixture
async def testbed() -> AsyncIterator[PluginTestbed]:
    async with open_testbed() as made:
        yield made


def heard(testbed: PluginTestbed, name: str) -> list[int]:
    return [int(seq) for seq in re.findall(r"^heard (\d+)", testbed.said(name), re.MULTILINE)]


async def test_it_hears_and_acts(testbed: PluginTestbed) -> None:
    code = """
@plugin.on("node.crashed", lab="web")
async def crashed(event: Event, lab: Client) -> None:
    print("operation", (await lab.start(event.lab, event.node))["kind"], flush=True)
"""
    from labd.model.specs import RestartPolicy

    await testbed.up(RestartPolicy())
    await testbed.up(RestartPolicy(), "other")
    testbed.python("helper", code)
    await testbed.start("helper")
    await testbed.hears("helper")
    await testbed.fails(lab="other")
    await testbed.fails()
    await testbed.says("helper", "operation start")
    assert testbed.said("helper").count("operation") == 1
    assert [(c.name, c.state) for c in testbed.changes] == [("helper", PluginState.RUNNING)]
    await testbed.supervisor.stop("helper")
    assert testbed.supervisor.state("helper") == (PluginState.DISABLED, 0)
    assert "Traceback" not in testbed.said("helper")


async def test_it_is_nobody(testbed: PluginTestbed) -> None:
    testbed.python("probe", PROBE)
    await testbed.start("probe")
    await testbed.hears("probe")
    said = testbed.said("probe")
    assert f"uids {UID} {UID} {UID} gids {UID} {UID} {UID} groups\n" in said
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert re.search(rf"{name}:\t0+\n", said)
    assert "NoNewPrivs:\t1\n" in said
    folder = testbed.root / "state" / "probe"
    facts = folder.stat()
    assert (stat.S_IMODE(facts.st_mode), facts.st_uid) == (0o700, UID)
    for entry in folder.iterdir():
        assert (stat.S_IMODE(entry.stat().st_mode), entry.stat().st_uid) == (0o600, UID), entry
    secrets = [(folder / name).read_text().strip() for name in ("token", "mqtt-password")]
    pid = testbed.pid("probe")
    for place in ("environ", "cmdline"):
        told = Path(f"/proc/{pid}/{place}").read_text()
        assert not any(secret in told for secret in secrets)


async def test_what_it_leaves_in_its_folder_is_never_run_as_root(testbed: PluginTestbed) -> None:
    testbed.python("rogue", SAY)
    folder = testbed.root / "state" / "rogue"
    site = folder / f".local/lib/python3.{sys.version_info.minor}/site-packages"
    site.mkdir(parents=True)
    trap = "import os\nif os.getuid() == 0: open('/proc/self/cwd/caught', 'w')\n"
    (site / "usercustomize.py").write_text(trap)
    (site / "trap.pth").write_text("import trapped\n")
    for name in ("ctypes", "labd", "sitecustomize", "usercustomize", "signal", "trapped"):
        (folder / f"{name}.py").write_text(trap)
    os.chown(folder, UID, UID)
    await testbed.start("rogue")
    await testbed.hears("rogue")
    seq = await testbed.tell()
    await testbed.says("rogue", f"heard {seq}")
    assert not (folder / "caught").exists()


async def test_it_imports_from_folders_that_are_closed_to_it(testbed: PluginTestbed) -> None:
    # A whole installation below a folder like /root: interpreter's packages and labd itself.
    closed = testbed.root / "closed"
    closed.mkdir(mode=0o700)
    venv.create(closed / "env", symlinks=True, with_pip=False)
    minor = f"python3.{sys.version_info.minor}"
    packages = closed / "env" / "lib" / minor / "site-packages"
    for name in ("aiomqtt", "paho", "click"):
        (found,) = importlib.util.find_spec(name).submodule_search_locations  # type: ignore[union-attr,misc]
        subprocess.run(["cp", "-r", found, packages], check=True)
    subprocess.run(["cp", "-r", Path(labd.__file__).parent, closed / "labd"], check=True)
    (closed / "pyproject.toml").touch()
    (packages / "checkout.pth").write_text(f"{closed}\n")
    testbed.add(
        "late",
        {
            "plugin.py": "from labd.plugin import Plugin\nimport beside, os, sys\n"
            "from labd.model import guestconfig\nimport click.testing\nimport xmlrpc.client\n"
            f"print('closed', not os.access({str(closed)!r}, os.X_OK), beside.WORD)\n"
            "print('from', guestconfig.__file__, click.testing.__file__)\n"
            "up = os.path.dirname(guestconfig.__file__) + '/../..'\n"
            "print('out', os.path.exists(up + '/pyproject.toml'), os.path.exists(up + '/model'))\n"
            "Plugin().run()\n",
            "beside.py": "WORD = 'beside itself'\n",
        },
    )
    testbed.supervisor = testbed.new_supervisor(python=str(closed / "env" / "bin" / "python"))
    await testbed.start("late")
    await testbed.says("late", "late hears events after")
    assert "closed True beside itself" in testbed.said("late")
    assert "out False True" in testbed.said("late"), "no way out of the package by `..`"
    assert re.search(
        r"from /proc/self/fd/\d+/model\S+ /proc/self/fd/\d+/click", testbed.said("late")
    )


async def test_one_that_crashes_comes_back_with_new_credentials(testbed: PluginTestbed) -> None:
    testbed.python("weak", SAY)
    await testbed.start("weak")
    await testbed.hears("weak")
    first = testbed.pid("weak")
    folder = testbed.root / "state" / "weak"
    token = (folder / "token").read_text().strip()
    assert testbed.supervisor.caller(token) == ("weak", frozenset({"labs:control", "events:read"}))
    os.kill(first, signal.SIGKILL)
    missed = [await testbed.tell() for _ in range(3)]
    await testbed.says("weak", f"heard {missed[-1]}")
    assert heard(testbed, "weak") == missed
    assert testbed.pid("weak") != first
    assert testbed.supervisor.caller(token) is None
    assert testbed.supervisor.caller("") is None
    assert testbed.supervisor.state("weak") == (PluginState.RUNNING, 1)
    states = [(change.state, change.status) for change in testbed.changes]
    runs, waits = PluginState.RUNNING, PluginState.BACKOFF
    assert states == [(runs, None), (waits, -9), (runs, None)]
    assert testbed.changes[1].reason == "its process was ended by SIGKILL"
    fresh = (folder / "token").read_text().strip()
    await testbed.supervisor.stop("weak")
    assert testbed.supervisor.caller(fresh) is None


async def test_one_that_cannot_run_backs_off_and_says_why(testbed: PluginTestbed) -> None:
    testbed.add("broken", {"plugin.py": "import nothing_of_the_kind\n"})
    testbed.add("gone", {"plugin.sh": "true"}, 'command = ["./plugin.sh"]\n')
    await testbed.start("broken")
    await testbed.start("gone")
    await testbed.says("broken", "No module named 'nothing_of_the_kind'")
    assert "import nothing_of_the_kind" in testbed.said("broken"), "the traceback has its line"
    await testbed.says("gone", "Permission denied")
    times: list[float] = []
    while len(times) < 2:
        wanted = 2 * len(times) + 3  # a start and an end each, and one start more
        await testbed.until(
            lambda: [c.name for c in testbed.changes].count("broken") >= wanted,  # noqa: B023
            "its restart",
        )
        times.append(asyncio.get_running_loop().time())
    assert times[1] - times[0] > 1.5, "the wait is doubled"
    assert testbed.supervisor.state("broken")[1] >= 2


async def test_its_own_processes_end_with_it(testbed: PluginTestbed) -> None:
    script = "sleep 1000 & echo child $!; setsid sleep 1000 & echo child $!; exec sleep ${1:-1000}"
    testbed.add("parent", {"plugin.sh": script}, 'command = ["bash", "plugin.sh", "0.3"]\n')
    await testbed.start("parent")
    # It ends by itself while a child holds its output open: that is noticed too.
    await testbed.until(
        lambda: PluginState.BACKOFF in [change.state for change in testbed.changes], "its end", 5
    )
    children = [int(pid) for pid in re.findall(r"child (\d+)", testbed.said("parent"))]
    assert len(children) == 2
    assert not any(is_alive(pid) for pid in children)
    await testbed.supervisor.stop("parent")

    testbed.add("lasting", {"plugin.sh": script}, 'command = ["bash", "plugin.sh"]\n')
    await testbed.start("lasting")
    await testbed.until(lambda: testbed.said("lasting").count("child") == 2, "both children")
    children = [int(pid) for pid in re.findall(r"child (\d+)", testbed.said("lasting"))]
    await testbed.supervisor.stop("lasting")
    assert not any(is_alive(pid) for pid in children)


async def test_no_two_share_a_user_and_each_keeps_its_own(testbed: PluginTestbed) -> None:
    for name in ("beta", "alpha", "gamma"):
        testbed.python(name, SAY)
    # As the engine gives them: by place in the sorted names, which shift.
    await testbed.start("beta", UID)
    await testbed.start("alpha", UID)
    await testbed.start("gamma", UID + 2)
    await testbed.until(lambda: len(testbed.changes) == 3, "all run")

    def owners() -> dict[str, int]:
        folders = (entry for entry in (testbed.root / "state").iterdir() if entry.is_dir())
        return {entry.name: entry.stat().st_uid for entry in folders}

    before = owners()
    assert before["beta"] == UID
    assert len(set(before.values())) == 3
    await testbed.supervisor.stop("beta")
    await testbed.start("beta", UID + 1)
    await testbed.until(lambda: len(testbed.changes) == 4, "beta runs again")
    assert owners() == before
    # A root that was moved to other user ids takes its files along.
    await testbed.supervisor.stop("beta")
    (testbed.root / "state" / "beta" / "labs").mkdir()
    (testbed.root / "state" / "beta" / "labs" / "link").symlink_to("/etc/passwd")
    await testbed.start("beta", UID + 5000)
    await testbed.until(lambda: len(testbed.changes) == 5, "beta runs as another")
    for path in [*(testbed.root / "state" / "beta").rglob("*"), testbed.root / "state" / "beta"]:
        assert path.lstat().st_uid == UID + 5000
    assert Path("/etc/passwd").stat().st_uid == 0


async def test_every_event_once_and_in_order_whatever_the_broker_does(
    testbed: PluginTestbed,
) -> None:
    testbed.lost = {5, 6, 12}
    testbed.python("ear", SAY)
    await testbed.start("ear")
    await testbed.hears("ear")
    for _ in range(12):
        await testbed.tell()
    await testbed.says("ear", "heard 13")
    await testbed.supervisor.stop("ear")
    for _ in range(4):
        await testbed.tell()
    await testbed.start("ear")
    await testbed.says("ear", "heard 17")
    # A broker that is killed comes back, and loses what it had.
    assert testbed.broker.pid is not None
    os.kill(testbed.broker.pid, signal.SIGKILL)
    for _ in range(4):
        await testbed.tell()
        await asyncio.sleep(0.2)
    await testbed.says("ear", "heard 21")
    for _ in range(4):
        await testbed.tell()
    await testbed.says("ear", "heard 25")
    assert heard(testbed, "ear") == list(range(2, 26))


async def test_without_labds_broker_it_follows_the_api(testbed: PluginTestbed) -> None:
    testbed.supervisor = testbed.new_supervisor(set_users=None)
    testbed.python("ear", SAY)
    await testbed.start("ear")
    await testbed.hears("ear")
    for _ in range(5):
        await testbed.tell()
    await testbed.says("ear", "heard 6", 5)
    await testbed.supervisor.stop("ear")
    assert heard(testbed, "ear") == [2, 3, 4, 5, 6]
    assert "Traceback" not in testbed.said("ear")


async def test_what_is_pruned_is_told_and_left(testbed: PluginTestbed) -> None:
    testbed.python("ear", SAY)
    await testbed.start("ear")
    await testbed.hears("ear")
    await testbed.supervisor.stop("ear")
    for _ in range(10):
        await testbed.tell()
    await testbed.daemon.inventory.mark_published(await testbed.daemon.seq())
    await testbed.start("ear")
    await testbed.says("ear", "heard 11")
    assert heard(testbed, "ear") == [9, 10, 11]
    assert "events 2 to 8 are lost" in testbed.said("ear")


async def test_a_new_inventory_is_heard_from_its_beginning(testbed: PluginTestbed) -> None:
    testbed.python("ear", SAY)
    folder = testbed.root / "state" / "ear"
    folder.mkdir(parents=True)
    (folder / "cursor").write_text("900\n")
    await testbed.tell()
    await testbed.start("ear")
    await testbed.says("ear", "heard 2")


async def test_a_failing_handler_is_tried_again_then_left(testbed: PluginTestbed) -> None:
    code = """
@plugin.on("node.reset")
async def told(event: Event, lab: Client) -> None:
    print("heard", event.seq, flush=True)
    if event.seq == 2:
        raise ValueError("never")
"""
    testbed.python("ear", code)
    await testbed.start("ear")
    await testbed.hears("ear")
    await testbed.tell()
    await testbed.tell()
    await testbed.says("ear", "heard 3")
    assert heard(testbed, "ear") == [2, 2, 2, 2, 3]
    assert "event 2 (node.reset) was left: its handler fails" in testbed.said("ear")
    assert "ValueError: never" in testbed.said("ear")


async def test_its_token_gives_no_more_than_its_scopes(testbed: PluginTestbed) -> None:
    code = """
@plugin.on("node.reset")
async def told(event: Event, lab: Client) -> None:
    try:
        await lab.start("web")
    except PluginError as error:
        print(error.code, error, flush=True)
"""
    testbed.python("meek", code, 'scopes = ["events:read"]\n')
    await testbed.start("meek")
    await testbed.hears("meek")
    await testbed.tell()
    await testbed.says("meek", "forbidden plugin meek may not do this")
    assert "labs:control" in testbed.said("meek")


async def test_its_log_is_bounded(testbed: PluginTestbed) -> None:
    testbed.add("loud", {"plugin.py": "while True: print('x' * 1000)\n"})
    await testbed.start("loud")
    await testbed.until((testbed.root / "state" / "loud.log.1").exists, "rotation")
    await asyncio.sleep(0.3)
    await testbed.supervisor.stop("loud")
    assert 256 << 10 < len(testbed.supervisor.log("loud")) < 600 << 10
    assert (testbed.root / "state" / "loud.log").stat().st_mode & 0o077 == 0


async def test_what_a_new_plugin_is_made_of_runs(testbed: PluginTestbed) -> None:
    (testbed.root / "plugins").mkdir()
    plugin_new.write("greeter", str(testbed.root / "plugins"))
    await testbed.start("greeter")
    await testbed.hears("greeter")
    await testbed.tell(EventType.NODE_CRASHED, reason="it fell")
    await testbed.says("greeter", "node.crashed web a it fell")


async def test_the_plugin_in_shell_of_the_documentation_runs(testbed: PluginTestbed) -> None:
    from labd.model.specs import RestartPolicy

    text = (REPO / "docs" / "plugins.md").read_text()
    files = dict(re.findall(r"`again/(plugin\.\w+)`:\n\n```\w+\n(.*?)```", text, re.DOTALL))
    assert sorted(files) == ["plugin.sh", "plugin.toml"]
    assert len(files["plugin.sh"].splitlines()) <= 10
    folder = testbed.root / "plugins" / "again"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(content)
    await testbed.up(RestartPolicy())
    await testbed.start("again")
    await testbed.until(lambda: bool(testbed.changes), "it runs")
    await asyncio.sleep(1)
    await testbed.fails()
    await testbed.says("again", '"kind":"start"')
    await testbed.until(lambda: testbed.is_in(NodeState.READY), "it is ready again")
    secret = (testbed.root / "state" / "again" / "mqtt-password").read_text().strip().encode()
    for process in leftovers._find(UID, testbed.root / "state" / "again"):
        with suppress(FileNotFoundError, ProcessLookupError):  # its children end at any time
            assert secret not in Path(f"/proc/{process.pid}/cmdline").read_bytes()


async def test_unknown_and_wrong_plugins_are_refused(testbed: PluginTestbed) -> None:
    testbed.add("odd", {"plugin.py": ""}, 'scopes = ["labs:reed"]\n')
    with pytest.raises(NotFound, match=r"^there is no plugin watchdoc; did you mean 'watchdog'\?$"):
        await testbed.start("watchdoc")
    with pytest.raises(ConfigError, match=r"plugin\.toml:2: unknown scope 'labs:reed'; did you"):
        await testbed.start("odd")
    (odd,) = [plugin for plugin in testbed.supervisor.installed() if plugin.name == "odd"]
    assert "unknown scope" in odd.problem
    assert {"watchdog", "webhook", "recorder"} <= {p.name for p in testbed.supervisor.installed()}
    assert testbed.supervisor.log("odd") == b""
    await testbed.supervisor.stop("odd")
