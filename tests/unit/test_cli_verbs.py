"""The `lab` command against the real API, over the real engine on fakes."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading

import pexpect
import pytest

from labd.cli.main import VERBS
from labd.features.plugins.manifest import read
from labd.model.events import EventDraft, EventType
from tests.children import running
from tests.unit.api_server import BOOT, Server
from tests.unit.cli_runner import LAB, Cli

# What no quick verb may have imported by the time it is done.
HEAVY = (
    "asyncio", "dataclasses.slots", "difflib", "hashlib", "logging", "pathlib", "pydantic", "rich",
    "ruamel", "shutil", "subprocess", "tempfile", "urllib.request", "uvicorn", "fastapi",
    "websockets", "labd.client.aio", "labd.client.types", "labd.client.errors", "labd.model.specs",
    "labd.model.names", "labd.cli.live",
)  # fmt: skip


def test_a_lab_from_up_to_destroy(lab: Cli) -> None:
    assert lab.both("ls") == ("", "no labs; `lab up TEMPLATE` makes one\n")
    assert lab("plan", lab.web).splitlines()[3].split() == ["create", "node", "a"]
    out, err = lab.both("up", lab.web)
    assert out.startswith("web is up (")
    ended = [line.split(" (")[0] for line in err.splitlines()][-2:]
    assert sorted(ended) == ["a: ready", "b: ready"]
    assert lab("plan", lab.web) == "web: nothing to do\n"
    assert lab("ls").splitlines()[1].split()[:4] == ["web", "running", "2/2", "web"]
    assert "lab web is running" in lab("status", "web")
    assert "node web/a is ready" in lab("status", "web/a")
    (broker,) = (line for line in lab("status").splitlines() if line.startswith("broker:"))
    assert broker == (
        "broker:          managed, 127.0.0.1:1883, user reader with the password in "
        "/run/labd/broker.password; not connected: refused"
    )
    assert lab("pause", "web/a") == "web/a is paused\n"
    assert lab("ls").splitlines()[1].split()[1:3] == ["running", "1/2"]
    assert lab("ls").splitlines()[1].endswith("  1 paused")
    assert lab("status", "web").splitlines()[0] == ("lab web is running, with 1 of 2 nodes paused")
    assert lab("resume", "web/a") == "web/a runs on\n"
    assert lab("reset", "web/a", "web/b") == "web/a, web/b is reset\n"
    assert lab("stop", "web/a", "--force") == "web/a is stopped\n"
    assert lab("start", "web") == "web is started\n"
    assert lab("restart", "web", "--grace", "5s") == "web is restarted\n"
    assert lab("logs", "--raw", "web/a") == BOOT.decode()
    raw = f"==> web/a <==\n{BOOT.decode()}==> web/b <==\n"
    assert lab("logs", "--raw", "web").startswith(raw)
    assert lab("down", "web") == "web is down; its disks are kept\n"
    assert lab("destroy", "web") == "web is destroyed\n"
    assert lab("ls", "--json") == '{\n  "labs": []\n}\n'


def test_up_takes_a_shipped_template_a_name_stdin_and_settings(
    lab: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lab("up", "hello").startswith("hello is up")
    assert lab("up", lab.web, "--name", "other", "--set", "memory=64M").startswith("other is up")
    with (lab.home / "web.yaml").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert lab("up", "-").startswith("web is up")
    assert {item["name"] for item in json.loads(lab("--json", "ls"))["labs"]} == {
        "hello",
        "other",
        "web",
    }


def test_up_without_waiting_and_waiting_later(lab: Cli) -> None:
    lab.server.hold_boots()
    assert "web: up has begun (op-" in lab("up", lab.web, "--no-wait")
    threading.Timer(0.3, lab.server.release_boots).start()
    assert lab("wait", "web", "--for", "ready", "--timeout", "60") == "web is ready\n"
    assert lab("wait", "web/a", "--for", "running") == "web/a is running\n"
    assert "has begun" in lab("destroy", "web", "--no-wait")
    assert lab("wait", "web", "--for", "destroyed") == "web is destroyed\n"


def test_waiting_for_what_is_stopped_ends_at_once(lab: Cli) -> None:
    lab("up", lab.web)
    lab("stop", "web/b")
    assert lab("wait", "web/b", "--for", "ready", expect=1) == (
        "lab: web/b is stopped and nothing is under way, so it will not be ready; "
        "start it with: lab start web/b\n"
    )
    assert lab("wait", "web/b", "--for", "stopped") == "web/b is stopped\n"
    lab("down", "web")
    for state in ("ready", "running", "degraded", "failed"):
        assert lab("wait", "web", "--for", state, expect=1) == (
            f"lab: web is stopped and nothing is under way, so it will not be {state}; "
            "start it with: lab start web\n"
        )
    assert lab("wait", "web", "--for", "idle") == "web is idle\n"
    lab.server.hold_boots()
    lab("start", "web", "--no-wait")
    threading.Timer(0.3, lab.server.release_boots).start()
    assert lab("wait", "web") == "web is ready\n"


def test_a_failing_up_tells_why(lab: Cli) -> None:
    path = lab.home / "slow.yaml"
    path.write_text("name: s\nnodes: {slow: {image: tiny, ready: {console: never, timeout: 1s}}}\n")
    why = (
        "node s/slow is not ready after 1 s: no console pattern 'never'; s/slow said last: "
        "'labd: ready'; with --keep, `lab up` leaves it to look at"
    )
    assert lab("up", str(path), expect=1).splitlines()[-1] == f"lab: {why}"
    error = json.loads(lab("--json", "up", str(path), expect=1))
    details = {"node": "slow", "last_line": "labd: ready"}
    assert error == {"code": "guest_failed", "message": why, "details": details}


def test_every_verb_speaks_json(lab: Cli) -> None:
    disk = lab.home / "disk"
    disk.write_bytes(bytes(512))
    lab.server.daemon.images.web["http://127.0.0.1/x"] = bytes(512)
    files = {"FILE": lab.web, "DISK": str(disk)}
    lab("up", lab.web)
    for args in (
        "plan FILE", "validate FILE", "up FILE", "ls", "status", "status web", "status web/a",
        "wait web", "logs web", "image ls", "image show tiny", "image build tiny --name two",
        "image rm two", "profile add p --image tiny", "profile ls", "profile show p",
        "profile rm p", "template ls", "template show hello", "template schema",
        "template parameters hello", "plugin ls", "plugin enable watchdog", "plugin logs watchdog",
        "plugin disable watchdog", "doctor", "version", "completion bash", "pause web/a",
        "resume web/a", "stop web/a", "start web/a", "restart web", "reset web", "down web",
        "image import DISK --format raw", "image import http://127.0.0.1/x --name far",
        "events --since 0 --type lab.lease-set", "destroy web",
    ):  # fmt: skip
        words = [files.get(word, word) for word in args.split()]
        out, err = lab.both(*words, "--json")
        assert err == "", args
        if not args.startswith(("events", "logs")):  # JSON Lines
            assert isinstance(json.loads(out), dict), args


def test_events_are_lines_and_json_lines(lab: Cli) -> None:
    lab("up", lab.web)
    lines = lab("events").splitlines()
    told = [line.split() for line in lines]
    assert [int(words[1]) for words in told] == list(range(1, 16))
    assert [words[2:4] for words in told if words[2] in {"node.ready", "operation.started"}] == [
        ["operation.started", "web"],
        ["node.ready", "web/a"],
        ["node.ready", "web/b"],
    ]
    assert told[-1][2:] == ["operation.succeeded", "web", "kind=up"]
    (network,) = (words for words in told if words[2] == "network.up")
    assert network[3:5] == ["web/lan", "bridge=br-lan"]
    records = [json.loads(line) for line in lab("--json", "events", "--since", "13").splitlines()]
    assert [record["seq"] for record in records] == [14, 15]
    assert [record["specversion"] for record in records] == ["1.0", "1.0"]
    assert len(lab("events", "--type", "node.*", "--lab", "web").splitlines()) == 8
    lab("image", "build", "tiny", "--name", "two")
    said = lab("events", "--since", "15", "--type", "image.added").splitlines()
    assert [line.split()[2:4] for line in said] == [["image.added", "two"]]


def test_events_are_followed_until_the_daemon_ends(lab: Cli) -> None:
    words = [LAB, "--root", str(lab.server.root), "events", "--follow", "--json"]
    added = EventDraft(type=EventType.IMAGE_ADDED, subject="tiny", data={"digest": "x", "size": 1})
    with running(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        # It hears what comes from the moment on at which it listens, and nobody knows when that is.
        while not select.select([child.stdout], [], [], 0.1)[0]:
            lab.server.run(lab.server.engine.state_writer.emit(added))
        assert json.loads(child.stdout.readline())["type"] == "io.labd.image.added"
        lab.server.stop()
        assert child.wait(30) == 3


def test_a_new_node_is_named_in_either_way(lab: Cli) -> None:
    lab("up", lab.web)
    for words, name in ((["web/x"], "x"), (["web", "y"], "y")):
        assert name in lab("node", "add", *words, "--image", "tiny")
    assert "'web/x/y'" in lab("node", "add", "web/x/y", "--image", "tiny", expect=2)


def test_images_profiles_and_plugins(lab: Cli) -> None:
    kernel, initrd = lab.home / "Kernel_6.1.img", lab.home / "initrd"
    kernel.write_bytes(b"".ljust(0x202, b"k") + b"HdrS" + bytes(3590))
    initrd.write_bytes(b"i" * 500)
    assert lab("image", "import", str(kernel), "--initrd", str(initrd)) == (
        "image kernel-6-1 is there: kernel, 4.5 KiB\n"
    )
    assert lab("image", "rm", "kernel-6-1") == "image kernel-6-1 is removed\n"
    assert lab("profile", "add", "p", "--image", "tiny", "--memory", "1 GiB") == (
        "profile p is there\n"
    )
    assert lab("profile", "ls").splitlines()[1].split()[:4] == ["p", "tiny", "1", "1"]
    lab("plugin", "enable", "watchdog", "--set", "patience=5")
    lab("plugin", "enable", "watchdog", "--set", "limit=3")
    found = json.loads(lab("plugin", "ls", "--json"))["plugins"][0]
    assert found["settings"] == {"patience": 5, "limit": 3, "secret": ""}
    assert lab("plugin", "disable", "watchdog") == "plugin watchdog is disabled\n"
    lab("plugin", "enable", "watchdog", "--set", "secret=12345")
    found = json.loads(lab("plugin", "ls", "--json"))["plugins"][0]
    assert found["settings"]["secret"] == "12345"  # a text setting, not a number
    lab("plugin", "enable", "watchdog", "--reset")
    assert json.loads(lab("plugin", "ls", "--json"))["plugins"][0]["settings"] == {
        "patience": 1,
        "limit": 1,
        "secret": "",
    }


def test_a_new_plugin_is_written_once(lab: Cli) -> None:
    out, err = lab.both("plugin", "new", "greeter", "--dir", str(lab.home))
    assert out.splitlines() == [
        str(lab.home / "greeter" / "plugin.toml"),
        str(lab.home / "greeter" / "plugin.py"),
    ]
    assert "lab plugin enable greeter" in err
    manifest = read(lab.home / "greeter")
    assert (manifest.name, manifest.events) == ("greeter", ("node.*",))
    compile((lab.home / "greeter" / "plugin.py").read_text(), "plugin.py", "exec")
    assert "is there already" in lab("plugin", "new", "greeter", "--dir", str(lab.home), expect=2)


def test_doctor_fails_when_something_does(lab: Cli) -> None:
    assert lab("doctor").splitlines()[1].split() == ["ok", "kvm", "works"]
    lab.server.daemon.findings[0] = {**lab.server.daemon.findings[0], "level": "fail"}
    lab.both("doctor", expect=1)


def test_version_tells_how_machines_run(lab: Cli) -> None:
    assert lab("version").splitlines()[2] == "machines run by kvm, -cpu host,migratable=on"
    # As an older labd has it, which runs on while `lab` is new.
    del lab.server.daemon.info["accel_cpu"]
    assert len(lab("version").splitlines()) == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(lab: Cli, shell: str) -> None:
    assert "_LAB_COMPLETE" in lab("completion", shell)


def test_completion_knows_the_verbs(lab: Cli) -> None:
    done = subprocess.run(
        [LAB],
        env={
            **os.environ,
            "_LAB_COMPLETE": "bash_complete",
            "COMP_WORDS": "lab st",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["plain,start", "plain,stop", "plain,status"]


def test_every_verb_has_help(lab: Cli) -> None:
    assert all(verb in lab("--help") for verb in VERBS)
    for verb in VERBS:
        assert lab(verb, "--help").startswith(f"Usage: lab {verb} ")


# the console


def console(server: Server, *args: str) -> list[str]:
    return [LAB, "--root", str(server.root), "console", *args]


def test_a_console_copies_stdin_and_ends_when_it_is_quiet(lab: Cli) -> None:
    lab("up", lab.web)
    done = subprocess.run(
        console(lab.server, "web/a"), input=b"abc\n", capture_output=True, timeout=60, check=True
    )
    assert done.stdout == BOOT + b"abc\n"
    assert done.stderr == b"attached to web/a; Ctrl-] leaves it\n"


def test_a_console_ends_with_its_node(lab: Cli) -> None:
    lab("up", lab.web)
    done = subprocess.run(  # the guest powers off at `p`
        console(lab.server, "web/a"), input=b"p", capture_output=True, timeout=60, check=True
    )
    assert done.stderr.endswith(b"the machine of web/a has ended\n")


def test_a_console_on_a_terminal_passes_keys_and_detaches(lab: Cli) -> None:
    lab("up", lab.web)
    words = console(lab.server, "web/a")
    child = pexpect.spawn(words[0], words[1:], timeout=10, encoding="utf-8")
    child.expect_exact("attached to web/a; Ctrl-] leaves it")
    child.expect_exact("labd: ready")
    child.send("x\x03")
    child.expect_exact("x\x03")
    child.send("\x1d")
    child.expect(pexpect.EOF)
    child.wait()
    child.close()
    assert child.exitstatus == 0


def test_up_on_a_terminal_shows_a_table(lab: Cli) -> None:
    lab.server.hold_boots()
    words = ["--root", str(lab.server.root), "up", lab.web]
    child = pexpect.spawn(
        LAB, words, timeout=10, encoding="utf-8", env={**os.environ, "TERM": "xterm"}
    )
    child.expect_exact("NODE")
    child.expect_exact("web/b")
    lab.server.release_boots()
    child.expect_exact("web is up")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


# start-up


@pytest.mark.parametrize("words", ["web/a -- ls -l", "web/a ls -l", "-- web/a -- ls -l"])
def test_ssh_passes_a_command_on_without_the_dashes_before_it(lab: Cli, words: str) -> None:
    lab("up", lab.web)
    program = lab.home / "ssh"
    program.write_text('#!/bin/sh\nfor word; do echo "$word"; done\n')
    program.chmod(0o755)
    done = subprocess.run(
        [LAB, "--root", lab.server.root, "ssh", *words.split()],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": f"{lab.home}:{os.environ['PATH']}", "HOME": str(lab.home)},
    )
    assert done.stdout.splitlines()[-4:] == ["--", "a.web.lab", "ls", "-l"]


@pytest.mark.parametrize("verb", ["ls", "version", "status", "image ls", "plugin ls", "events"])
def test_quick_verbs_import_nothing_heavy(lab: Cli, verb: str) -> None:
    lab("up", lab.web)
    code = (
        "import sys; from labd.cli.main import run; "
        f"status = run(['--root', {str(lab.server.root)!r}, *{verb.split()!r}]); "
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_reader_that_goes_away_is_no_error(lab: Cli) -> None:
    lab("up", lab.web)
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"{LAB} --root {lab.server.root} events | head -n 1; echo ${{PIPESTATUS[0]}}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("lab down w", "web"),
        ("lab console web/", "web/a web/b"),
        ("lab stop nothing", ""),
        ("lab image show ", "tiny"),
        ("lab plugin enable w", "watchdog"),
        ("lab template show h", "hello"),
        ("lab up hel", "hello"),
        ("lab up web --name w", "web"),
        ("lab wait web/a --for pa", "paused panicked"),
        ("lab events --type node.re", "node.ready node.resumed node.reset node.responsive"),
    ],
)
def test_completion_knows_the_names_of_things(lab: Cli, words: str, found: str) -> None:
    lab("up", lab.web)
    done = subprocess.run(
        [sys.executable, "-m", "labd.cli.main"],
        env={
            "LABD_ROOT": str(lab.server.root),
            "_LAB_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [f"plain,{name}" for name in found.split()]
