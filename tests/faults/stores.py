"""What the stores of a root have on disk, beside what the rows of its inventory say."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from labd.inventory.rows import load
from labd.model.checkpoints import CheckpointRecord
from labd.model.images import Image


def misfits(root: Path) -> list[str]:
    """Return rows of images and checkpoints without their files, and files without a row."""
    with closing(sqlite3.connect(root / "lib" / "labd.db")) as inventory:
        saved = inventory.execute("SELECT record FROM checkpoints").fetchall()
        images = inventory.execute("SELECT record FROM images").fetchall()
    return [
        *_checkpoints(root / "lib/checkpoints", [load(CheckpointRecord, row[0]) for row in saved]),
        *_images(root / "lib/images", [load(Image, row[0]) for row in images]),
    ]


def _checkpoints(store: Path, records: Sequence[CheckpointRecord]) -> list[str]:
    keys = {record.key for record in records}
    found = [f"checkpoint {key} without a row" for key in _names(store) - keys]
    found += [f"half a checkpoint {name}" for name in _names(store / ".partial", hidden=True)]
    for record in records:
        files = [f"{node.name}.{kind}" for node in record.nodes for kind in ("ram", "state")]
        paths = [store / record.key / name for name in ("manifest.json", *files)]
        paths += [
            store / ".layers" / digest.removeprefix("sha256:")
            for node in record.nodes
            for disk in node.disks
            for digest in disk.layers
        ]
        found += [f"checkpoint {record.name} without {path}" for path in paths if not path.exists()]
    return found


def _images(store: Path, images: Sequence[Image]) -> list[str]:
    digests = {image.digest.removeprefix("sha256:"): image for image in images}
    found = [f"image files {name} without a row" for name in _names(store) - digests.keys()]
    found += [f"half an image {name}" for name in _names(store / ".partial", hidden=True)]
    return found + [
        f"image {image.name} without {part}"
        for digest, image in digests.items()
        for part in image.files
        if not (store / digest / part).exists()
    ]


def _names(folder: Path, *, hidden: bool = False) -> set[str]:
    if not folder.is_dir():
        return set()
    return {path.name for path in folder.iterdir() if hidden or not path.name.startswith(".")}
