"""The folders of a daemon on the disk: made with the modes that its machines need."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from labd.model.errors import ConfigError
from labd.model.paths import Paths, check_socket_path

__all__ = ["Paths", "check_socket_path", "closed_ancestor", "prepare", "shipped"]

# Broker and plugins run as users of their own and may pass through (x) to what is theirs, but have
# nothing to list there (no r). Machines get descriptors and need no way through anything.
_PASS_THROUGH = 0o711
_CLOSED = 0o700


def prepare(paths: Paths) -> None:
    """Make the folders that are missing and set the modes of labd's own (idempotent).

    Raises:
        ConfigError: A folder cannot be made.
    """
    modes = {
        paths.etc: 0o755,
        paths.run: 0o755,
        paths.state: _PASS_THROUGH,
        paths.cache: _PASS_THROUGH,
        paths.images: _CLOSED,
        paths.nodes: _CLOSED,
        paths.keys: _CLOSED,
        paths.node_runs: _CLOSED,
        paths.plugins: _PASS_THROUGH,
        paths.broker: _PASS_THROUGH,
        paths.broker_run: 0o755,
    }
    for folder, mode in modes.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            os.chmod(folder, mode)
        except OSError as error:
            raise ConfigError(
                f"cannot make folder {folder}: {error.strerror};"
                " run labd as root, or give a --root that can be written"
            ) from error


def closed_ancestor(path: Path) -> Path | None:
    """Return the first folder on the way to `path` that others cannot pass through, or None."""
    real = path.resolve()
    for folder in [*reversed(real.parents), real]:
        try:
            mode = folder.stat().st_mode
        except FileNotFoundError:
            return None
        if not mode & stat.S_IXOTH:
            return folder
    return None


def shipped(kind: str) -> Path:
    """Return the folder of what comes with labd: `plugins` or `lab-templates`.

    A wheel has them inside the package, a checkout beside it.
    """
    package = Path(__file__).resolve().parents[1]
    inside = package / "_shipped" / kind
    return inside if inside.is_dir() else package.parent / kind
