"""The daemons of the system tests, with their leak check."""

from __future__ import annotations

from tests.system.conftest import built_tiny, make_daemon, nothing_is_left

__all__ = ["built_tiny", "make_daemon", "nothing_is_left"]
