"""Kinds of nodes, and what a kind may offer besides the life of its nodes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

DEFAULT_KIND: Final = "vm"  # of nodes that name none, and of all older rows


class Capability(StrEnum):
    """What a feature asks of a kind of node; the value is what people are told is missing."""

    CONSOLE = "console"
    AGENT = "guest agent"
    SCREEN = "screen"
    HOT_PLUG = "hot-plug"
    CHECKPOINT = "checkpoints"
    CARRIER = "carrier"
    ACCELERATOR = "accelerator"


Kinds = Mapping[str, frozenset[Capability]]  # name of a kind -> what it offers
VM_ONLY: Final[Kinds] = {DEFAULT_KIND: frozenset(Capability)}
