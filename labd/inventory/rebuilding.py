"""Make a damaged inventory anew: `labd rebuild`, which `lab fsck --rebuild` is."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from labd.host.threads import quick
from labd.inventory import copies
from labd.inventory.sqlite import SqliteInventory, damage_of
from labd.model.errors import Conflict
from labd.model.events import EventDraft, EventType
from labd.model.machine import FoundMachine
from labd.model.pools import waiting

log = logging.getLogger(__name__)

# Of a host id: the QEMU processes that run for it.
Scan = Callable[[str], Awaitable[Sequence[FoundMachine]]]


async def rebuild_inventory(database: Path, scan: Scan, *, force: bool) -> str:
    """Put an inventory in the place of a damaged one; return what was done, for people.

    It is the newest copy that is whole, with all changes since, and is held against what runs: the
    next daemon takes over each machine that it knows. The root's lock is held by the caller.

    Raises:
        InventoryDamaged: No copy is whole. Nothing was changed.
        Conflict: Machines run that the copy does not know, and not `force`. Nothing was changed.
    """
    if (why := await damage_of(database)) is None:
        return f"the inventory {database} is sound, and stays as it is"
    log.warning("%s", why)
    rebuilt = await quick(copies.rebuild, database)
    kept = copies.aside(database, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))
    try:
        labs, nodes = await _hold_against(rebuilt, scan, kept, force=force)
    except BaseException:
        rebuilt.path.unlink(missing_ok=True)
        raise
    await quick(copies.put_in_place, rebuilt, database, kept)
    return (
        f"made anew with {labs} labs and {nodes} nodes; the damaged inventory is {kept}; "
        "start labd: it takes over what runs"
    )


async def _hold_against(
    rebuilt: copies.Rebuilt, scan: Scan, kept: Path, *, force: bool
) -> tuple[int, int]:
    """Compare with what runs and tell of the rebuilding; return the numbers of labs and nodes."""
    inventory = await SqliteInventory.open(rebuilt.path, copied=False)
    try:
        nodes = await inventory.nodes()
        members = await inventory.pool_members()
        known = {node.key: node.process for node in (*nodes, *waiting(members))}
        strangers = [
            f"{machine.process.pid} ({machine.key})"
            for machine in await scan(await inventory.host_id())
            if known.get(machine.key) != machine.process
        ]
        if strangers and not force:
            raise Conflict(
                f"no copy of the inventory knows the QEMU processes {', '.join(strangers)}, and "
                "labd would end them when it starts: save what they have, and give --force",
                processes=strangers,
            )
        numbers = len(await inventory.labs()), len(nodes)
        data = {
            "labs": numbers[0],
            "nodes": numbers[1],
            "changes": rebuilt.changes,
            "damaged": str(kept),
        }
        async with inventory.transaction() as tx:
            await tx.emit(EventDraft(type=EventType.DAEMON_REBUILT, data=data))
        return numbers
    finally:
        await inventory.close()
