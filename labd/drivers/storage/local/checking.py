"""What an imported checkpoint must be, before anything of it is used."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from labd.model.checkpoints import CheckpointRecord
from labd.model.errors import InputError
from labd.model.names import check_name

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_FILE = re.compile(r"[a-z0-9][a-z0-9-]*(?:\.[a-z0-9]+)+\Z")
_WORD = re.compile(r"[a-z0-9][a-z0-9.-]{0,40}\Z")
_QCOW2 = struct.Struct(">4sIQIIQI36xQ")  # docs/interop/qcow2.txt, up to the incompatible features
_DIRTY = 1


def check_record(record: CheckpointRecord) -> None:
    """Raise InputError unless names and digests of a manifest can be used as parts of paths.

    Raises:
        InputError: One cannot, or nodes and spec do not belong together.
    """
    for node in record.nodes:
        check_name(node.name, "node")
        files = [name for name, _ in node.files] + [disk.name for disk in node.disks]
        digests = [node.ram, node.state, *(digest for _, digest in node.files)]
        digests += [digest for disk in node.disks for digest in disk.layers]
        for word in (node.machine_type, *(disk.id for disk in node.disks)):
            if not _WORD.match(word):
                raise InputError(f"the exported checkpoint names a device {word[:64]!r}")
        for name in files:
            if not _FILE.match(name):
                raise InputError(f"the exported checkpoint names a file {name[:64]!r}")
        for digest in digests:
            if not _DIGEST.match(digest):
                raise InputError(f"the exported checkpoint has a digest {digest[:64]!r}")
    for network in record.spec.networks:
        check_name(network.name, "network")
    names = [node.name for node in record.nodes]
    if sorted(names) != sorted(node.name for node in record.spec.nodes) or not names:
        raise InputError("the nodes of the exported checkpoint are not those of its spec")


def check_layer(path: Path) -> None:
    """Raise InputError unless a file is a plain qcow2: QEMU must not follow what its header names.

    Raises:
        InputError: It is none, is encrypted, or has its data in another file.
    """
    with path.open("rb") as file:
        head = file.read(_QCOW2.size)
    if len(head) < _QCOW2.size:
        raise InputError(f"{path.name[:19]} of the exported checkpoint is no qcow2 disk")
    magic, version, _, _, _, _, encryption, features = _QCOW2.unpack(head)
    if magic != b"QFI\xfb" or version != 3 or encryption or features & ~_DIRTY:
        raise InputError(
            f"{path.name[:19]} of the exported checkpoint is not a plain qcow2 disk of version 3"
        )
