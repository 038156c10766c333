"""A table on a terminal with one line per node, redrawn as events come."""

from __future__ import annotations

import time

from rich.console import Console  # noqa: TID253 -- this module is imported late, on terminals only
from rich.live import Live  # noqa: TID253
from rich.table import Table  # noqa: TID253
from rich.text import Text  # noqa: TID253

_STYLES = {"ready": "green", "running": "cyan", "crashed": "red", "panicked": "red"}


class LiveTable:
    """Shows what became of each node."""

    def __init__(self, lab: str) -> None:
        self._lab = lab
        self._began = time.monotonic()
        self._nodes: dict[str, tuple[str, str, float]] = {}
        self._live = Live(
            console=Console(stderr=True), get_renderable=self._table, refresh_per_second=8
        )

    def __enter__(self) -> LiveTable:  # noqa: PYI034
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(self, *args: object) -> None:
        """Leave the last picture on the screen."""
        self._live.stop()

    def node(self, name: str, state: str, reason: str) -> None:
        """Remember what became of a node."""
        self._nodes[name] = (state, reason, time.monotonic() - self._began)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for head in ("NODE", "STATE", "AFTER", ""):
            table.add_column(head)
        for name, (state, reason, passed) in sorted(self._nodes.items()):
            style = _STYLES.get(state, "yellow")
            shown = Text(state, style=style)
            table.add_row(f"{self._lab}/{name}", shown, f"{passed:.1f} s", Text(reason))
        return table
