"""The inventory: what labd wants and last knew, and the outbox of its events, in one SQLite file.

sqlite.py       SqliteInventory and its transaction: the adapter of `core/ports.py`
database.py     the connection, migrations, errors (the only user of aiosqlite)
tables.py       all rows as values in memory, copied on write by a transaction
copies.py       a copy of the file and a log of the changes since, for `labd rebuild`
rebuilding.py   `labd rebuild`
rows.py         pure: records to SQL and back
migrations/     numbered SQL files, under PRAGMA user_version
"""

from labd.inventory.rebuilding import rebuild_inventory
from labd.inventory.sqlite import SqliteInventory

__all__ = ["SqliteInventory", "rebuild_inventory"]
