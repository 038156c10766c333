"""Disks of rows that an older labd wrote: with the paths of files instead of names. Pure."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from labd.model.disks import DiskKind


def with_refs(text: str) -> str:
    """Return the JSON of a row in which every disk is named as `DiskRef`; the same where it is."""
    if '"path":' not in text:
        return text
    return json.dumps(_converted(json.loads(text)), separators=(",", ":"))


def _converted(value: object) -> object:
    if isinstance(value, list):
        return [_converted(item) for item in value]
    if not isinstance(value, dict):
        return value
    if {"id", "path", "format"} <= value.keys() and "ref" not in value:
        disk = {name: item for name, item in value.items() if name != "path"}
        disk["ref"] = ref_of(value["path"])
        disk["backing"] = [[ref_of(path), form] for path, form in value.get("backing", ())]
        return disk
    return {name: _converted(item) for name, item in value.items()}


def ref_of(path: str) -> dict[str, str]:
    """Return the name, in the class `local`, of what was at a path below the state folder.

        images/<hex>/disk             an image
        checkpoints/.layers/<hex>     a layer
        nodes/<key>/<name>            a disk of a machine

    An empty drive had the path `.`.
    """
    whole = PurePosixPath(path)
    folder, above = whole.parent.name, whole.parent.parent.name
    if above == "images":
        return _ref(DiskKind.IMAGE, folder, "")
    if folder == ".layers":
        return _ref(DiskKind.LAYER, whole.name, "")
    return _ref(DiskKind.MACHINE, folder, whole.name)


def _ref(kind: DiskKind, key: str, name: str) -> dict[str, str]:
    return {"kind": kind.value, "key": key, "name": name, "storage": "local"}
