"""What `lab plugin new` writes: a plugin that runs as it is."""

from __future__ import annotations

import contextlib
import os
import shutil

from labd.model.errors import InputError
from labd.model.names import check_name

_MANIFEST = """\
name = "{name}"
version = "0.1.0"
description = "Says what becomes of nodes"

# Which events it hears; `*` stands for any part.
events = ["node.*"]
# What its token may do; see docs/api.md.
scopes = ["labs:read", "events:read"]

# Settings that `lab plugin enable {name} --set greeting=Hello` gives, with their defaults.
[settings.greeting]
type = "string"
default = "Hello"
description = "Said before each event"
"""

_CODE = '''\
"""{name}: says what becomes of nodes. See docs/plugins.md for what a plugin can do."""

from __future__ import annotations

from labd.plugin import Client, Event, Plugin

plugin = Plugin()


@plugin.on("node.*")
async def told(event: Event, lab: Client) -> None:
    """Say it; `lab plugin logs {name}` shows it. `lab` acts: await lab.start("web", "server")."""
    reason = event.data.get("reason", "")
    print(plugin.settings["greeting"], event.type, event.lab, event.node, reason, flush=True)


if __name__ == "__main__":
    plugin.run()
'''


def write(name: str, folder: str) -> list[str]:
    """Write `FOLDER/NAME/plugin.toml` and `plugin.py`; return their paths.

    Raises:
        InputError: The name is not valid, the folder is there already, or cannot be made.
    """
    check_name(name, "plugin")
    home = os.path.join(folder, name)
    texts = {"plugin.toml": _MANIFEST, "plugin.py": _CODE}
    written = []
    try:
        with contextlib.ExitStack() as undo:
            os.mkdir(home)
            undo.callback(shutil.rmtree, home, ignore_errors=True)
            for file, text in texts.items():
                path = os.path.join(home, file)
                with open(path, "x", encoding="utf-8") as out:
                    out.write(text.replace("{name}", name))
                written.append(path)
            undo.pop_all()
    except FileExistsError as error:
        raise InputError(f"{home} is there already; choose another name or folder") from error
    except OSError as error:
        raise InputError(f"cannot write {home}: {error.strerror}") from error
    return written
