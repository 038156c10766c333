"""How a Python plugin starts: import the SDK as root, become a user without rights, run its code.

    python -m labd.plugin.launch UID PARENT PROGRAM

labd may live in a folder that other users cannot pass through (a checkout below /root). So the SDK
and the plugin's text are read first, and only then the process gives up its rights, for good; no
line of the plugin has run before that. The working folder is the plugin's own.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

# All that a plugin will need of labd is imported now: later it might not be readable any more.
import labd.client.client
import labd.client.errors
import labd.events.mqtt
import labd.plugin.sdk  # noqa: F401

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38  # linux/prctl.h


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def drop_rights(uid: int, parent: int) -> None:
    """Become `uid` without any way back, and end when the process `parent` does.

    A change of user clears the parent-death signal (prctl(2)), hence the order; a parent that died
    before is seen by `getppid`.
    """
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("labd has ended")


def main() -> None:
    """Run a plugin."""
    uid, parent, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    text = Path(program).read_bytes()
    drop_rights(uid, parent)
    sys.argv[:] = [program]
    module = type(sys)("__main__")
    module.__file__ = program
    sys.modules["__main__"] = module
    exec(compile(text, program, "exec"), module.__dict__)  # noqa: S102 - this is what it is for


if __name__ == "__main__":
    main()
