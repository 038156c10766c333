"""How OpenSSH reaches nodes: the options that `lab ssh` gives, and that `lab ssh-config` writes.

A node is the host `NODE.LAB.lab`. ssh has `lab connect --pass-fd` make the connection and hand it
over (ProxyUseFdpass), so that no process stands between ssh and the node afterwards. The same
command first writes the lab's key to the file that ssh is going to read: a lab that was destroyed
and made anew needs no new configuration.
"""

from __future__ import annotations

import os
import shlex
import sys

from labd.client.places import by_token_only, default_token, is_url
from labd.model.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from labd.cli.session import Session

DOMAIN = "lab"


def host_name(lab: str, node: str) -> str:
    """Return what ssh calls a node. Names have no dots, so that it is read back unambiguously."""
    return f"{node}.{lab}.{DOMAIN}"


def parse_host(text: str) -> tuple[str, str]:
    """Return lab and node of `LAB/NODE` or `NODE.LAB.lab`.

    Raises:
        InputError: It is neither.
    """
    if "/" in text:
        from labd.cli.session import node_ref

        return node_ref(text)
    parts = text.split(".")
    if len(parts) != 3 or parts[2] != DOMAIN or not all(parts):
        raise InputError(
            f"{text[:80]!r} is neither LAB/NODE nor NODE.LAB.lab; write it like server.web.lab"
        )
    return parts[1], parts[0]


def key_folder(session: Session) -> str:
    """Return the folder of the keys for one daemon, one file a node.

    Not the daemon's own files: ssh takes a private key only from a file that nobody else can read.
    """
    import hashlib

    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    place = session.socket_path
    place = place if is_url(place) else os.path.realpath(place)
    daemon = hashlib.sha256(place.encode()).hexdigest()[:8]
    return os.path.join(state, "labd", "ssh", daemon)


def write_key(path: str, private: str) -> None:
    """Write a private key (0600), in one step, unless it is there already."""
    try:
        with open(path, encoding="utf-8") as file:
            if file.read() == private:
                return
    except OSError:
        pass
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    draft = f"{path}.{os.getpid()}"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        file.write(private)
    os.replace(draft, path)


def this_command() -> list[str]:
    """Return how this very `lab` is run."""
    program = os.path.abspath(sys.argv[0])
    if os.access(program, os.X_OK) and not program.endswith(".py"):
        return [program]
    return [sys.executable, "-m", "labd.cli.main"]


def options(session: Session) -> dict[str, str]:
    """Return the options for all nodes of a daemon, as ssh_config(5) names them."""
    folder = key_folder(session).replace("%", "%%")
    place = session.socket_path
    where = ["--url", place] if is_url(place) else ["--socket", os.path.abspath(place)]
    # With a token alone there is no descriptor to hand over: the bytes go through this process.
    piped = by_token_only(place, default_token())
    words = [*this_command(), *where, "connect", *([] if piped else ["--pass-fd"]), "--identity"]
    # ssh gives the line to a shell, after it has put in its own %-words.
    command = shlex.join([word.replace("%", "%%") for word in words])
    return {
        "User": "root",
        "ProxyCommand": f"{command} {shlex.quote(folder)}/%n %n %p",
        "ProxyUseFdpass": "no" if piped else "yes",
        "IdentityFile": f'"{folder}/%n"',
        # The lab's key fits; a long list from an agent would use up the tries that sshd allows.
        "IdentitiesOnly": "yes",
        # A node's host key lives as long as its disk, or for `tiny` its memory, and forks share it:
        # it cannot tell one machine from another. There is no way for a stranger to get between
        # either, for the connection is made inside the lab's own namespace and handed over by
        # labd; and whoever is in the lab gains nothing, for the key opens this one lab only.
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
        "LogLevel": "ERROR",
    }
