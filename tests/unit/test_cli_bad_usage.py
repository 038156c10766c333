"""What people mistype: one line each with its exact words, the right status, nothing changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from labd.cli.main import run
from labd.client import Client
from labd.client.errors import unreachable
from labd.model.states import NodeState
from tests.unit.api_server import Server, api_server

NAME = "is not valid: use 1 to 31 of a-z, 0-9 and '-', beginning with a letter"
ONE = "name: web\nnodes: {a: {image: tiny}}\n"
LAB, ARGUMENT = "is not the name of a lab", "invalid value for"
BAD: list[tuple[str, int, str]] = [
    ("strat", 2, "there is no verb 'strat'; did you mean 'start'?"),
    ("xyzzy", 2, "there is no verb 'xyzzy'; see lab --help"),
    ("--jsno ls", 2, "no such option '--jsno'; did you mean '--json'?"),
    ("--verison", 2, "no such option '--verison'; did you mean '--version'?"),
    ("ls --root /x", 2, "--root stands before the verb: lab --root …"),
    ("ls --url http://x", 2, "--url stands before the verb: lab --url …"),
    # Never `labd rebuild` of this host for a daemon that was named elsewhere.
    ("--url http://127.0.0.1:9 fsck --rebuild", 4, ("labd is not on this host: run this where its "
     "inventory is, without --socket or --url")),
    ("ls --all", 2, "no such option '--all'; see lab ls --help"),
    ("ls web", 2, "got unexpected extra argument (web); see lab ls --help"),
    ("up", 2, "missing argument 'TEMPLATE'; see lab up --help"),
    ("up nofile.yaml", 2, "there is no file nofile.yaml; give the path of a lab template"),
    ("up no/such", 2, "there is no file no/such; give the path of a lab template"),
    ("up DIR", 2, "DIR is not a regular file; give the path of a lab template"),
    ("validate /tmp", 2, "/tmp is not a regular file; give the path of a lab template"),
    ("validate /dev/null", 2, "/dev/null is not a regular file; give the path of a lab template"),
    ("up nothing", 2, ("there is no file nothing and no shipped template of that name; "
     "`lab template ls` lists them")),
    ("up Nothing", 2, ("there is no file Nothing and no shipped template of that name; "
     "`lab template ls` lists them")),
    ("up BINARY", 2, "BINARY is not UTF-8 text (byte 0); save it as UTF-8"),
    ("up HUGE", 2, "HUGE is larger than 512 KiB: that is no lab template"),
    ("up WEB --set memory", 2, "--set 'memory' is not KEY=VALUE"),
    ("up WEB --set =1", 2, "--set '=1' is not KEY=VALUE"),
    ("up WEB --set memory=1 --set memory=2", 2, "--set memory is given twice; give it once"),
    ("up WEB --timeout soon", 2, "duration 'soon' is not valid: write it like 90s, 5m or 2h30m"),
    ("up WEB --timeout 0", 2, "--timeout 0 must be more than 0 and at most 7d"),
    ("up WEB --timeout 8d", 2, "--timeout 8d must be more than 0 and at most 7d"),
    ("up WEB --name Web", 2, f"lab name 'Web' {NAME}"),
    ("up WEB --name full", 1,
     "lab full is busy: up (OPERATION) runs; wait for it with `lab wait full --for idle`"),
    ("plan", 2, "missing argument 'TEMPLATE'; see lab plan --help"),
    ("validate", 2, "missing argument 'TEMPLATE'; see lab validate --help"),
    ("down", 2, "missing argument 'LAB...'; see lab down --help"),
    ("down web/a", 2, "`down` takes whole labs; for a node use: lab stop web/a"),
    ("destroy web/a", 2, "`destroy` takes whole labs; for a node use: lab stop web/a"),
    ("destroy nope", 4, "there is no lab nope; known: full"),
    ("destroy nope --grace x", 2, "duration 'x' is not valid: write it like 90s, 5m or 2h30m"),
    ("stop nope/a", 4, "there is no lab nope; known: full"),
    ("stop a/b/c", 2, "'a/b/c' is not LAB or LAB/NODE; write it like web/server"),
    ("stop a/", 2, "'a/' is not LAB or LAB/NODE; write it like web/server"),
    ("stop /b", 2, "'/b' is not LAB or LAB/NODE; write it like web/server"),
    ("pause --force web", 2, "no such option '--force'; see lab pause --help"),
    ("status nope", 4, "there is no lab nope; known: full"),
    ("status ..", 2, f"lab name '..' {NAME}"),
    ("status A", 2, f"lab name 'A' {NAME}"),
    ("status nope/b", 4, "there is no lab nope; known: full"),
    ("wait nope", 4, "there is no lab nope; known: full"),
    ("wait web --for happy", 2, ("--for 'happy' is no state of a lab; known: ready, running, "
     "degraded, stopped, failed, destroyed, idle")),
    ("wait web/a --for idle", 2, ("--for 'idle' is no state of a node; known: ready, running, "
     "paused, stopped, crashed, panicked, unresponsive, destroyed")),
    ("wait web --timeout 1y", 2, "duration '1y' is not valid: write it like 90s, 5m or 2h30m"),
    ("ssh web", 2, "'web' is not LAB/NODE; write it like web/server"),
    ("ssh me@web", 2, "'web' is not LAB/NODE; write it like web/server"),
    ("ssh nope/a", 4, "there is no lab nope; known: full"),
    ("ssh -p 0 web/a", 2,
     "invalid value for '-p' / '--port': 0 is not in the range 1<=x<=65535; see lab ssh --help"),
    ("ssh-config nope", 4, "there is no lab nope; known: full"),
    ("logs nope", 4, "there is no lab nope; known: full"),
    ("logs web/a --since yesterday", 2, (
        "--since 'yesterday' is neither a duration such as 10m nor a time such as "
        "2026-11-23T10:00:00Z"
    )),
    ("logs web/a --raw -f", 2, "--raw prints what there is; leave out --follow and --since"),
    ("inventory nope", 4, "there is no lab nope; known: full"),
    ("ssh-config --write -o x", 2, "--write and --output exclude each other; give one"),
    ("ssh-config -o /dev/null/x", 2,
     "cannot write /dev/null/x: Not a directory; choose another --output"),
    ("connect web/a", 2, "missing argument 'PORT'; see lab connect --help"),
    ("connect a.web 22", 2,
     "'a.web' is neither LAB/NODE nor NODE.LAB.lab; write it like server.web.lab"),
    ("connect nope/a 22", 4, "there is no lab nope; known: full"),
    ("connect a.nope.lab 22", 4, "there is no lab nope; known: full"),
    ("connect --pass-fd nope/a 22", 2,
     "--pass-fd is for ssh's ProxyUseFdpass, whose stdout is a socket"),
    ("forward web/a", 2,
     "missing argument '[HOST:]HOSTPORT:PORT...'; see lab forward --help"),
    ("forward web 80:80", 2, "'web' is not LAB/NODE; write it like web/server"),
    ("forward web/a 80", 2,
     "'80' is no port forward: write it like 8080:80, 0:22 or 127.0.0.1:8080:80"),
    ("forward web/a 80:99999", 2,
     "'80:99999' has a wrong port: the host's is 0 to 65535, the node's 1 to 65535"),
    ("forward nope/a 0:80", 4, "there is no lab nope; known: full"),
    ("proxy nope", 4, "there is no lab nope; known: full"),
    ("proxy nope --port 70000", 2,
     "invalid value for '--port': 70000 is not in the range 0<=x<=65535; see lab proxy --help"),
    ("console web", 2, "'web' is not LAB/NODE; write it like web/server"),
    ("console nope/a", 4, "there is no lab nope; known: full"),
    ("logs nope", 4, "there is no lab nope; known: full"),
    ("events --since -1", 2,
     "invalid value for '--since': -1 is not in the range x>=0; see lab events --help"),
    ("events --since x", 2,
     "invalid value for '--since': 'x' is not a valid integer range; see lab events --help"),
    ("events --lab A", 2,
     f"query parameter 'lab': 'A' {NAME}"),
    ("events --type node.crashd", 2,
     "--type 'node.crashd' is no type of event; did you mean 'node.crashed'?"),
    ("events -f --type x*", 2, "--type 'x*' is no type of event; docs/events.md lists them"),
    ("image explode", 2, "lab image has no command 'explode'; see lab image --help"),
    ("image imprt", 2, "lab image has no command 'imprt'; did you mean 'import'?"),
    ("image show nope", 4, "there is no image nope; known: tiny"),
    ("image rm nope", 4, "there is no image nope; known: tiny"),
    ("image build huge", 2, "there is no image recipe 'huge'; known: tiny"),
    ("image import nofile", 2,
     "there is no file nofile; give a file, or a URL with http or https"),
    ("image import DIR", 2, "DIR is not a regular file; give a file, or a URL with http or https"),
    ("image import /dev/zero", 2,
     "/dev/zero is not a regular file; give a file, or a URL with http or https"),
    ("image import ftp://x/y", 2,
     "there is no file ftp://x/y; give a file, or a URL with http or https"),
    ("image import WEB --sha256 12", 2,
     "--sha256 is not 64 hex digits; `sha256sum FILE` prints them"),
    ("image import WEB --format vmdk", 2, ("invalid value for '--format': 'vmdk' is not one of "
     "'raw', 'qcow2', 'iso', 'kernel'; see lab image import --help")),
    ("image import WEB --initrd WEB --format raw", 2,
     "--initrd goes with a kernel, and not with --format raw"),
    ("image import http://h/x --cmdline quiet", 2,
     "--initrd, --cmdline and --ready go with a file, not with a URL"),
    ("image import BINARY --name Bad", 2, f"image name 'Bad' {NAME}"),
    ("image import 123", 2, "no name can be made of '123'; give one with --name"),
    ("profile add p", 2, "missing option '--image'; see lab profile add --help"),
    ("profile add p --image tiny --memory lots", 2,
     "size 'lots' is not valid: write it like 256 MiB or 10 GiB"),
    ("profile add p --image tiny --memory 5", 2,
     "field 'memory': must be 1 MiB (1048576) or more"),
    ("profile add p --image tiny --vcpus 65", 2,
     "invalid value for '--vcpus': 65 is not in the range 1<=x<=64; see lab profile add --help"),
    ("profile add P --image tiny", 2, f"profile name 'P' {NAME}"),
    ("profile show p", 4, "there is no profile p"),
    ("template show nope", 4, "there is no shipped template nope; known: hello"),
    ("plugin enable nope", 4, "there is no plugin nope; known: watchdog"),
    ("plugin enable watchdog --set x=1", 2,
     "plugin watchdog has no setting 'x'; known: limit, patience, secret"),
    ("plugin enable watchdog --set x", 2, "--set 'x' is not KEY=VALUE"),
    ("plugin new Bad", 2, f"plugin name 'Bad' {NAME}"),
    ("plugin new ok --dir nodir", 2, "cannot write nodir/ok: No such file or directory"),
    ("checkpoint save nope c", 4, "there is no lab nope; known: full"),
    ("checkpoint save web/a c", 2,
     f"{ARGUMENT} 'LAB': 'web/a' {LAB}; see lab checkpoint save --help"),
    ("checkpoint show a/b", 2, ("invalid value for 'CHECKPOINT': 'a/b' is not the name of a "
     "checkpoint; see lab checkpoint show --help")),
    ("checkpoint show nope", 4, "there is no checkpoint nope"),
    ("checkpoint rm nope", 4, "there is no checkpoint nope"),
    ("checkpoint export nope x", 4, "there is no checkpoint nope"),
    ("checkpoint import nofile", 2, "cannot read nofile: No such file or directory"),
    ("checkpoint import -", 2, f"checkpoint name '-' {NAME}; --name NAME chooses one"),
    ("checkpoint import .x", 2, f"checkpoint name '' {NAME}; --name NAME chooses one"),
    ("checkpoint import WEB --name a_b", 2,
     f"checkpoint name 'a_b' {NAME}; --name NAME chooses one"),
    ("checkpoint import WEB --name c", 2, "this is no exported checkpoint"),
    ("fork nope x", 4, "there is no checkpoint nope"),
    ("fork nope x --count 0", 2,
     "invalid value for '--count': 0 is not in the range 1<=x<=500; see lab fork --help"),
    ("fork nope x --set a", 2, "--set 'a' is not KEY=VALUE"),
    ("fork nope A", 2, f"field 'name': 'A' {NAME}"),
    ("chapter next web/a", 2, f"{ARGUMENT} 'LAB': 'web/a' {LAB}; see lab chapter next --help"),
    ("chapter back web", 2, "lab chapter has no command 'back'; see lab chapter --help"),
    ("lease set web/a 3h", 2, f"{ARGUMENT} 'LAB': 'web/a' {LAB}; see lab lease set --help"),
    ("lease set web tomorrow", 2, ("'tomorrow' is neither a duration such as 3h nor a time with "
     "its zone such as 2026-01-31T18:00:00Z")),
    ("lease set web 3h --keep-for x", 2,
     "duration 'x' is not valid: write it like 90s, 5m or 2h30m"),
    ("pool warm a/b 2", 2, ("invalid value for 'CHECKPOINT': 'a/b' is not the name of a "
     "checkpoint; see lab pool warm --help")),
    ("pool warm nope 501", 2,
     "invalid value for 'N': 501 is not in the range 1<=x<=500; see lab pool warm --help"),
    ("class status a/b", 2, ("invalid value for 'CLASS': 'a/b' is not the name of a class; "
     "see lab class status --help")),
    ("class status A", 2, f"the name 'A' {NAME}"),
    ("top web/a", 2, f"{ARGUMENT} '[LAB]': 'web/a' {LAB}; see lab top --help"),
    ("completion tcsh", 2, ("invalid value for '{bash|zsh|fish}': 'tcsh' is not one of 'bash', "
     "'zsh', 'fish'; see lab completion --help")),
]  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Return a server whose lab `full` does not come up before the end."""
    with api_server() as running:
        running.hold_boots()
        with Client(running.socket) as client:
            client.up("full", ONE)
        running.run(running.daemon.until("a", NodeState.RUNNING, lab="full"))
        yield running
        running.release_boots()


@pytest.fixture
def own() -> Iterator[Server]:
    """Return a server of one test alone."""
    with api_server() as running:
        yield running


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("WEB").write_text(ONE)
    Path("BINARY").write_bytes(b"\xff\xfe")
    Path("HUGE").write_bytes(b"#" * (600 << 10))
    Path("DIR").mkdir()


@pytest.mark.parametrize(("args", "status", "message"), BAD)
def test_one_clear_line(
    server: Server, capfd: pytest.CaptureFixture[str], args: str, status: int, message: str
) -> None:
    story = server.story()
    (held,) = server.run(server.daemon.inventory.operations(running=True))
    message = message.replace("OPERATION", held.id)
    assert run(["--root", str(server.root), *args.split()]) == status
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err == f"lab: {message}\n"
    assert run(["--json", "--root", str(server.root), *args.split()]) == status
    said = capfd.readouterr()
    assert said.out == ""
    error = json.loads(said.err)
    assert set(error) == {"code", "message", "details"}
    assert error["message"] == message
    assert _of_labs(server.story()) == _of_labs(story)


def _of_labs(story: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Leave out what an operation of no lab tells: of an image that cannot be built."""
    return [item for item in story if item[1]]


def test_a_wrong_template_is_told_as_editors_like_it(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("bad.yaml").write_text("nam: x\nname: x\nfoo: 1\nnodes: {a: {image: tiny}}\n")
    assert run(["--root", str(server.root), "up", "bad.yaml"]) == 2
    assert capfd.readouterr().err == (
        "bad.yaml:1:1: unknown key 'nam' in the template; did you mean 'name'?\n"
        "bad.yaml:3:1: unknown key 'foo' in the template; known: chapters, description, links, "
        "name, networks, nodes, parameters\n"
    )


def test_a_family_without_its_verb_shows_help(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["image"]) == 2
    assert "Usage: lab image " in capfd.readouterr().err
    assert run([]) == 2
    assert "Verbs:" in capfd.readouterr().err
    assert run(["--json", "image"]) == 2
    assert json.loads(capfd.readouterr().err)["message"] == "missing verb; see --help"


@pytest.mark.parametrize("verb", ["ls", "version", "up WEB", "events", "destroy web"])
def test_a_stopped_daemon_is_status_3_with_advice(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], verb: str
) -> None:
    assert run(["--root", str(tmp_path), *verb.split()]) == 3
    socket = tmp_path / "run" / "api.sock"
    assert capfd.readouterr().err == (
        f"lab: labd does not run (no answer on {socket}); "
        f"start it with: labd serve --root {tmp_path}\n"
    )


@pytest.mark.parametrize(
    ("socket", "command"),
    [
        ("/run/labd/api.sock", "labd serve"),
        ("/elsewhere/my.sock", "labd serve"),
        ("/srv/my labs/run/api.sock", "labd serve --root '/srv/my labs'"),
        ("/srv/labs/run/connect.sock", "labd serve --root /srv/labs"),
    ],
)
def test_the_advice_to_start_labd_has_the_root_in_use(socket: str, command: str) -> None:
    assert unreachable(socket, FileNotFoundError()).message == (
        f"labd does not run (no answer on {socket}); start it with: {command}"
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("stop two b", "there is no lab b; did you mean 'two/b'?"),
        ("stop two/a b", "there is no lab b; did you mean 'two/b'?"),
        ("restart two tvo", "there is no lab tvo; did you mean 'two'?"),
        ("pause two two/c", "there is no node two/c; known: a, b"),
        ("reset two b", "there is no lab b; did you mean 'two/b'?"),
        (
            "destroy two b",
            "there is no lab b; `destroy` takes whole labs; for a node use: lab stop two/b",
        ),
    ],
)
def test_all_targets_are_looked_up_before_anything_is_done(
    own: Server, capfd: pytest.CaptureFixture[str], args: str, message: str
) -> None:
    Path("TWO").write_text("name: two\nnodes: {a: {image: tiny}, b: {image: tiny}}\n")
    assert run(["--root", str(own.root), "up", "TWO"]) == 0
    capfd.readouterr()
    before = own.story()
    assert run(["--root", str(own.root), *args.split()]) == 4
    assert capfd.readouterr() == ("", f"lab: {message}\n")
    assert own.story() == before, "nothing was begun"


def test_what_does_not_come_in_time_is_status_5(
    own: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["--root", str(own.root), "up", "WEB", "--name", "late"]) == 0
    capfd.readouterr()
    waiting = ["wait", "late/a", "--for", "crashed", "--timeout", "0.3"]
    assert run(["--root", str(own.root), *waiting]) == 5
    assert capfd.readouterr().err == "lab: late/a is not crashed after 0.3 s: it is ready\n"
