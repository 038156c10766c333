"""The addresses that nodes really have, as `lab ls` and `lab status` show them."""

from __future__ import annotations

from labd.cli.text import plain, table
from labd.model.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from labd.cli.session import Session


def show_addresses(session: Session, labs: Sequence[str], node: str = "") -> None:
    """Show the addresses of labs, or of one node in one.

    Raises:
        NotFound: There is no such lab or node.
    """
    found = []
    for lab in labs:
        if node:
            session.client.node(lab, node)  # tells when it is not there
        try:
            items = session.client.addresses.of(lab)
        except NotFound:
            if len(labs) == 1:
                raise
            continue  # destroyed since it was listed
        found += [{"lab": lab, **item} for item in items if node in ("", item["node"])]
    if session.json:
        session.emit({"addresses": found})
        return
    if not found:
        session.note("no running node has told an address yet")
        return
    rows = [
        (
            f"{item['lab']}/{item['node']}",
            plain(item["nic"]) or "-",
            item["address"],
            item["source"],
        )
        for item in found
    ]
    session.say(table(("NODE", "NIC", "ADDRESS", "FROM"), rows))
