"""What hatchling runs to build a wheel: makes man pages and completion scripts and puts them in."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SharedData(BuildHookInterface[Any]):
    """Makes what goes to share/ of the prefix that the wheel is installed into."""

    PLUGIN_NAME = "custom"
    _scratch: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files to a wheel; a checkout that is installed editable needs none."""
        if version != "standard":
            return
        # Built in isolation, only what stands in `build-system.requires` can be imported.
        sys.path.insert(0, self.root)
        try:
            from tools import completions, manpages
        finally:
            sys.path.remove(self.root)
        # Of this build alone: others may be going on in the same checkout.
        self._scratch = tempfile.TemporaryDirectory(prefix="labd-share-")
        folder = Path(self._scratch.name)
        for file in [*manpages.write(folder / "man"), *completions.write(folder)]:
            build_data["shared_data"][str(file)] = f"share/{file.relative_to(folder)}"

    def finalize(
        self,
        version: str,  # noqa: ARG002
        build_data: dict[str, Any],  # noqa: ARG002
        artifact_path: str,  # noqa: ARG002
    ) -> None:
        """Remove what has been put in."""
        if self._scratch is not None:
            self._scratch.cleanup()
