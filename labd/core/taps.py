"""Open taps: closing the descriptor of one removes it."""

from __future__ import annotations

import os
from collections.abc import Mapping

# NIC -> descriptor; also by machine before that.
Taps = Mapping[str, "int | Taps"]


def close_taps(taps: Taps) -> None:
    """Close the descriptors of taps, by NIC, or by machine and NIC."""
    for found in taps.values():
        if isinstance(found, int):
            os.close(found)
        else:
            close_taps(found)
