"""Leases to SQL and back; pure."""

from __future__ import annotations

from typing import Any

from labd.inventory.database import Statement
from labd.model.records import LeaseRecord

LeaseKey = tuple[str, str]  # lab, address

SELECT_LEASES = "SELECT lab, address, network, mac, name, node, nic FROM leases"

_PUT = (
    "INSERT OR REPLACE INTO leases (lab, address, network, mac, name, node, nic) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)


def lease_key(record: LeaseRecord) -> LeaseKey:
    """Return what names a lease."""
    return record.lab, record.address


def put_lease(record: LeaseRecord) -> Statement:
    """Insert or replace."""
    values = (record.network, record.mac, record.name, record.node, record.nic)
    return _PUT, (*lease_key(record), *values)


def delete_lease(record: LeaseRecord) -> Statement:
    """Delete."""
    return "DELETE FROM leases WHERE lab=? AND address=?", lease_key(record)


def lease_of(row: tuple[Any, ...]) -> LeaseRecord:
    """Return the record of a row of `SELECT_LEASES`."""
    lab, address, network, mac, name, node, nic = row
    return LeaseRecord(
        lab=lab, address=address, network=network, mac=mac, name=name, node=node, nic=nic
    )
