"""The manifest of a checkpoint: its record as text."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from labd.model.checkpoints import CheckpointRecord
from labd.model.errors import InputError

MANIFEST = "manifest.json"
_ADAPTER: TypeAdapter[CheckpointRecord] = TypeAdapter(CheckpointRecord)


def manifest(record: CheckpointRecord) -> bytes:
    """Return the text of a record."""
    return _ADAPTER.dump_json(record, indent=1) + b"\n"


def read_manifest(data: bytes) -> CheckpointRecord:
    """Return the record of a text that may have come from anywhere.

    Raises:
        InputError: It is none.
    """
    try:
        return _ADAPTER.validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"this is no manifest of a checkpoint: {where}: {first['msg']}") from error
