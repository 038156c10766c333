"""How a Python plugin starts: import the SDK as root, become a user without rights, run its code.

    python -I -u -m labd.plugin.launch UID PARENT FOLDER_FD PROGRAM

`-I` matters: without it Python would import from the working folder, which is the plugin's own, and
so a plugin could have its code run as root at its next start.

labd, its virtual environment or Python itself may live in a folder that other users cannot pass
through (a checkout below /root). So the SDK and the plugin's text are read first, and only then the
process gives up its rights, for good; no line of the plugin has run before that. What is imported
later comes through descriptors of the folders on the import path (`/proc/self/fd/N`), which need no
way through what is above them, and give none (`labd.plugin.folders`). They show a plugin the
program's text, and nothing else: whoever holds such a descriptor still has only an unprivileged
user's rights to what is below it.
"""

from __future__ import annotations

import linecache
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

# What nearly every plugin needs; now, because it is quicker than by descriptor.
import labd.client.client
import labd.client.errors
import labd.events.mqtt
import labd.plugin.sdk
from labd.host.libc import LIBC, PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, why
from labd.plugin.folders import open_folder


def _prctl(option: int, value: int) -> None:
    if LIBC.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(why()[0], "prctl failed")


def drop_rights(uid: int, parent: int) -> None:
    """Become `uid` without any way back, and end when the process `parent` does.

    A change of user clears the parent-death signal (prctl(2)), hence the order; a parent that died
    before is seen by `getppid`.
    """
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("labd has ended")


def open_import_path() -> dict[str, int]:
    """Open the folders that modules come from: path of the folder -> descriptor.

    Of a checkout only the package is opened, not all that lies beside it.
    """
    package = Path(labd.plugin.sdk.__file__).parents[1]
    folders = {str(package)}
    for entry in sys.path:
        checkout = entry == str(package.parent) and Path(entry, "pyproject.toml").exists()
        if entry and not checkout and Path(entry).is_dir():
            folders.add(entry)
    return {folder: open_folder(Path(folder)) for folder in folders}


def reach_by_descriptor(opened: Mapping[str, int]) -> None:
    """Let imports go through descriptors where the path itself is closed to this user."""
    moved = {}
    for folder, fd in opened.items():
        if os.access(folder, os.R_OK | os.X_OK):
            os.close(fd)
        else:
            moved[folder] = f"/proc/self/fd/{fd}"

    def there(path: str) -> str:
        for folder in sorted(moved, key=len, reverse=True):
            if path == folder or path.startswith(f"{folder}/"):
                return moved[folder] + path.removeprefix(folder)
        return path

    sys.path[:] = [there(entry) for entry in sys.path]
    for module in list(sys.modules.values()):
        found = getattr(module, "__path__", None)
        if isinstance(found, list):
            found[:] = [there(entry) for entry in found]
    sys.path_importer_cache.clear()


def run(program: Path) -> None:
    """Run the plugin's text, read as root, as a user who may be unable to read it again."""
    uid, parent, folder = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    text = program.read_bytes()
    opened = open_import_path()
    drop_rights(uid, parent)
    reach_by_descriptor(opened)
    sys.path.insert(0, f"/proc/self/fd/{folder}")  # modules beside the plugin's own
    name = str(program)
    sys.argv[:] = [name, *sys.argv[5:]]
    lines = text.decode(errors="replace").splitlines(keepends=True)
    linecache.cache[name] = (len(text), None, lines, name)  # for tracebacks
    module = type(sys)("__main__")
    module.__file__ = name
    sys.modules["__main__"] = module
    exec(compile(text, name, "exec"), module.__dict__)  # noqa: S102 - this is what it is for


if __name__ == "__main__":
    run(Path(sys.argv[4]))
