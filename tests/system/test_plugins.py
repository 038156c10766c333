"""Plugins of a whole labd, by the command line: their rights, their tokens, and mistakes.

What the kernel, the broker and the API's socket say counts, not what labd tells.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.system.harness import Daemon, Json, end, is_alive, until
from tests.system.plugin_root import TEMPLATE, enable, folder, hears, pids, secret, with_plugins

IDLE = 'command = ["sleep", "3000"]\n'


@pytest.fixture
def installed(make_daemon: Callable[..., Daemon], tmp_path: Path) -> Callable[..., Daemon]:
    return lambda **manifests: with_plugins(make_daemon, tmp_path / "closed", manifests)


def status(pid: int) -> dict[str, str]:
    """Return what the kernel says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def ask(daemon: Daemon, target: str, token: str = "", body: str = "") -> tuple[int, Json]:
    """Make a request on the socket of plugins; return the status and the document."""
    command = ["curl", "-sS", "--unix-socket", str(daemon.root / "run" / "plugin.sock")]
    command += ["-H", f"Authorization: Bearer {token}"] if token else []
    command += ["--json", body] if body else []
    command += ["-w", "\n%{http_code}", f"http://labd/v1/{target}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    text, _, code = done.stdout.rpartition("\n")
    document = json.loads(text)
    assert isinstance(document, dict)
    return int(code), document


# from nothing to a running plugin, and its rights


def test_a_new_plugin_runs_as_it_is_and_has_no_rights(
    installed: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = installed(waits=f'name = "waits"\n{IDLE}')
    daemon.lab("plugin", "new", "greeter", "--dir", str(tmp_path / "closed"))
    running = {
        "greeter": enable(daemon, "greeter", "greeting=Salut"),
        "recorder": enable(daemon, "recorder"),
        "waits": enable(daemon, "waits"),
    }
    hears(daemon, "greeter")
    hears(daemon, "recorder")
    daemon.lab("up", TEMPLATE, "--name", "boot")
    until(lambda: "Salut node.ready boot boot" in daemon.lab("plugin", "logs", "greeter"), "salut")

    users = set()
    for name, pid in running.items():
        facts = status(pid)
        uids = set(facts["Uid"].split())
        assert len(uids) == 1, f"{name}: {uids}"
        assert facts["Gid"].split() == facts["Uid"].split()
        assert facts["Groups"] == ""
        for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(facts[kind], 16) == 0, f"{name}: {kind}"
        assert facts["NoNewPrivs"] == "1", name
        users |= uids
        uid = int(uids.pop())
        assert folder(daemon, name).stat().st_uid == uid
        assert folder(daemon, name).stat().st_mode & 0o777 == 0o700
    assert len(users) == len(running), "each has a user id of its own"
    assert "0" not in users
    assert {owner(pid) for pid in daemon.qemus()}.isdisjoint(users), "also none of a machine's"


def owner(pid: int) -> str:
    """Return the user id of a process."""
    return status(pid)["Uid"].split()[0]


def test_one_that_is_killed_comes_back_and_harms_no_other(
    installed: Callable[..., Daemon],
) -> None:
    daemon = installed(
        waits=f'name = "waits"\n{IDLE}', falls='name = "falls"\ncommand = ["false"]\n'
    )
    waits, recorder = enable(daemon, "waits"), enable(daemon, "recorder")
    hears(daemon, "recorder")
    daemon.lab("plugin", "enable", "falls")
    end(waits)
    until(lambda: pids(daemon, "waits") not in ([], [waits]), "it comes back")

    def told(name: str) -> list[Json]:
        kinds = ("plugin.started", "plugin.crashed")
        events = [e for e in daemon.events() if e["type"].removeprefix("io.labd.") in kinds]
        return [event for event in events if event["subject"] == name]

    until(lambda: len(told("falls")) >= 6, "it is started three times", 20)
    times = [event["time"] for event in told("falls") if event["type"].endswith("started")]
    seconds = [float(time[17:-1]) for time in times]
    first, second = [(b - a) % 60 for a, b in pairwise(seconds)][:2]
    assert 0.9 < first < 5
    assert 1.9 < second < 6
    assert [event["data"] for event in told("waits")] == [
        {},
        {"status": -9, "reason": "its process was ended by SIGKILL"},
        {},
    ]
    assert pids(daemon, "recorder") == [recorder]
    states = {
        p["name"]: (p["state"], p["restarts"]) for p in daemon.json("plugin", "ls")["plugins"]
    }
    assert states["waits"] == ("running", 1)
    assert states["recorder"] == ("running", 0)
    assert states["falls"][0] in {"backoff", "running"}


def test_it_sees_nothing_beside_its_folders(
    installed: Callable[..., Daemon], tmp_path: Path
) -> None:
    # All lies below a folder that only root can enter: what is beside must stay hidden by it.
    daemon = installed(shell='name = "shell"\ncommand = ["sh", "plugin.sh"]\n')
    closed = tmp_path / "closed"
    (closed / "beside").write_text("hidden")
    closed.parent.chmod(0o700)
    closed.chmod(0o755)
    look = 'echo "$1: $(cat "$2" 2>&1)"\n'
    (closed / "shell" / "plugin.sh").write_text(
        f"look() {{ {look} }}\n"
        'look code "$LABD_PLUGIN_DIR/plugin.toml"\n'
        'look beside "$LABD_PLUGIN_DIR/../beside"\n'
        'look config "${LABD_API_SOCKET%/*}/../etc/labd.toml"\n'
        "sleep 3000\n"
    )
    daemon.lab("plugin", "enable", "shell")
    until(lambda: "config:" in daemon.lab("plugin", "logs", "shell"), "it has looked")
    said = daemon.lab("plugin", "logs", "shell")
    assert 'code: name = "shell"' in said
    assert "hidden" not in said
    assert "[plugins]" not in said
    assert said.count("No such file or directory") == 2


def test_what_it_started_ends_with_it_also_without_its_environment(
    installed: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = installed(parent='name = "parent"\ncommand = ["sh", "plugin.sh"]\n')
    (tmp_path / "closed" / "parent" / "plugin.sh").write_text(
        "env -i setsid sleep 3000 &\necho child $!\nsetsid sleep 3000 &\necho child $!\nwait\n"
    )
    daemon.lab("plugin", "enable", "parent")
    until(lambda: daemon.lab("plugin", "logs", "parent").count("child") == 2, "both run")
    children = [int(word) for word in daemon.lab("plugin", "logs", "parent").split()[1::2]]
    assert all(is_alive(pid) for pid in children)
    daemon.lab("plugin", "disable", "parent")
    assert not any(is_alive(pid) for pid in children)


# tokens


def test_a_token_gives_its_scopes_and_ends_with_the_plugin(
    installed: Callable[..., Daemon],
) -> None:
    daemon = installed(looks=f'name = "looks"\nscopes = ["labs:read"]\n{IDLE}')
    daemon.lab("up", TEMPLATE, "--name", "boot")
    pid = enable(daemon, "looks")
    token = secret(daemon, "looks")

    code, problem = ask(daemon, "labs")
    assert (code, problem["code"]) == (401, "unauthorised")
    assert ask(daemon, "labs", "no-such-token")[0] == 401
    assert ask(daemon, "labs", token[:-1])[0] == 401
    code, found = ask(daemon, "labs", token)
    assert code == 200
    assert [lab["name"] for lab in found["labs"]] == ["boot"]

    for target, body, scope in (
        ("labs/boot/actions", '{"action": "destroy", "force": true}', "labs:control"),
        ("labs/boot/nodes/boot/log", "", "labs:console"),
        ("events", "", "events:read"),
        ("images", "", "images:read"),
        ("doctor", "", "host:read"),
        ("plugins", "", "plugins:admin"),
        ("plugins/looks/log", "", "plugins:admin"),
    ):
        code, problem = ask(daemon, target, token, body)
        assert (code, problem["code"]) == (403, "forbidden"), target
        assert scope in problem["detail"]
        assert "plugin looks" in problem["detail"]
    assert set(daemon.states("boot").values()) == {"ready"}

    daemon.lab("plugin", "disable", "looks")
    assert not is_alive(pid)
    assert pids(daemon, "looks") == []
    assert ask(daemon, "labs", token)[0] == 401
    # Enabled again it has another.
    enable(daemon, "looks")
    assert secret(daemon, "looks") != token
    assert ask(daemon, "labs", token)[0] == 401
    assert ask(daemon, "labs", secret(daemon, "looks"))[0] == 200


# the broker


def mosquitto(
    daemon: Daemon, program: str, user: str, password: str, *args: str
) -> subprocess.CompletedProcess[str]:
    """Run a client of labd's broker."""
    broker = daemon.json("version")["daemon"]["broker"]
    where = ["-h", broker["host"], "-p", str(broker["port"]), "-u", user, "-P", password]
    return subprocess.run(
        [program, "-V", "5", *where, "-q", "1", *args],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_plugins_broker_user_reads_what_its_scopes_say_and_writes_nothing(
    installed: Callable[..., Daemon],
) -> None:
    daemon = installed(
        hearer=f'name = "hearer"\nscopes = ["events:read"]\n{IDLE}',
        deaf=f'name = "deaf"\nscopes = ["labs:read"]\n{IDLE}',
    )
    enable(daemon, "hearer")
    enable(daemon, "deaf")
    passwords = {name: secret(daemon, name, "mqtt-password") for name in ("hearer", "deaf")}
    root = f"labd/v1/{daemon.host_id}"
    # What is retained comes at once to who may read: labd's own state is.
    wait = ("-t", "#", "-t", f"{root}/#", "-W", "2", "-F", "%t")
    for topic in (f"{root}/events", f"{root}/lab/boot/events", f"{root}/status", "elsewhere"):
        done = mosquitto(
            daemon, "mosquitto_pub", "hearer", passwords["hearer"], "-t", topic, "-r", "-m", "lie"
        )
        assert "Not authorized" in done.stderr, topic
    heard = mosquitto(daemon, "mosquitto_sub", "hearer", passwords["hearer"], *wait).stdout
    assert set(heard.split()) == {f"{root}/status"}
    said = mosquitto(
        daemon, "mosquitto_sub", "hearer", passwords["hearer"], "-t", f"{root}/status", "-C", "1"
    )
    assert json.loads(said.stdout)["data"]["state"] == "online", "not the lie"
    assert mosquitto(daemon, "mosquitto_sub", "deaf", passwords["deaf"], *wait).stdout == ""

    refused = mosquitto(daemon, "mosquitto_sub", "hearer", passwords["deaf"], *wait)
    assert "not authorised" in refused.stderr.lower().replace("z", "s")
    daemon.lab("plugin", "disable", "hearer")
    refused = mosquitto(daemon, "mosquitto_sub", "hearer", passwords["hearer"], *wait)
    assert refused.returncode != 0
    assert "not authorised" in refused.stderr.lower().replace("z", "s")


# mistakes


MANIFESTS = {
    "eager": (
        'name = "eager"\nscope = ["labs:read"]\n',
        "2: unknown key 'scope'; did you mean 'scopes'?",
    ),
    "grabs": (
        'name = "grabs"\nscopes = ["plugins:admin"]\ncommand = ["true"]\n',
        (
            "2: unknown scope 'plugins:admin'; known: events:read, host:read, images:read, "
            "images:write, labs:console, labs:control, labs:read"
        ),
    ),
    "named": ('name = "other"\n', "1: name must be that of its folder, 'named'"),
    "typed": (
        'name = "typed"\ncommand = ["true"]\n[settings.wait]\ntype = "duratoin"\n',
        "4: settings.wait: unknown type 'duratoin'; did you mean 'duration'?",
    ),
    "empty": ('name = "empty"\n', "1: command: there is no file 'plugin.py' in {folder}"),
}
SETTINGS = [
    ((), "plugin webhook needs the setting 'url': enable it with --set url=..."),
    (
        ("url=http://h/", "retrys=1"),
        "plugin webhook has no setting 'retrys'; did you mean 'retries'?",
    ),
    (
        ("url=gopher://h/",),
        (
            "plugin webhook: setting url: must be an http or https URL, "
            "like https://example.org/events"
        ),
    ),
    (
        ("url=http://h/", "retries=many"),
        "plugin webhook: setting retries: must be a whole number",
    ),
    (
        ("url=http://h/", "timeout=NaN"),
        "plugin webhook: setting timeout: must be a duration, like 30s or 5m",
    ),
    (
        ("url=http://h/", "timeout=Infinity"),
        "plugin webhook: setting timeout: must be a duration, like 30s or 5m",
    ),
]


def test_mistakes_are_told_exactly_and_change_nothing(
    installed: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = installed(**{name: text for name, (text, _) in MANIFESTS.items()})
    before = daemon.changes()
    problems = {p["name"]: p["problem"] for p in daemon.json("plugin", "ls")["plugins"]}
    for name, (_, message) in MANIFESTS.items():
        home = tmp_path / "closed" / name
        told = f"{home}/plugin.toml:{message.format(folder=home)}"
        assert problems[name] == told
        assert daemon.lab("plugin", "enable", name, expect=2) == f"lab: {told}\n"
    for settings, message in SETTINGS:
        options = [word for setting in settings for word in ("--set", setting)]
        said = daemon.lab("plugin", "enable", "webhook", *options, expect=2)
        assert said == f"lab: {message}\n"
    said = daemon.lab("plugin", "enable", "webhok", expect=4)
    assert said == "lab: there is no plugin webhok; did you mean 'webhook'?\n"
    assert daemon.changes() == before
