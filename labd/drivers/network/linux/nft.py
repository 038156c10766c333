"""The `nft` program: rulesets in, names of tables and chains out."""

from __future__ import annotations

import json

from labd.drivers.network.linux import netns
from labd.host.commands import run
from labd.model.errors import CommandFailed, NetworkFailed

_LIMIT = 30.0  # seconds
_MAX_OUTPUT = 64 << 20  # bytes; hosts of containers have many rules


async def load(
    text: str, *, namespace: str = "", check: bool = False, what: str = "an uplink"
) -> None:
    """Load a ruleset in one transaction (`nft -f -`), or only have the kernel check it (`-c`).

    Args:
        text: The ruleset.
        namespace: Name under `/run/netns`; empty: the host's.
        check: Nothing is changed.
        what: Whose rules they are, for the message.

    Raises:
        NetworkFailed: nft is missing, or it or the kernel refuses; nothing was changed.
    """
    await _run(["nft", *(["-c"] if check else []), "-f", "-"], text, namespace, what)


async def chains(prefix: str) -> dict[str, set[str]]:
    """Return table -> names of its chains, of the host's tables whose names begin so.

    Raises:
        NetworkFailed: nft cannot be run.
    """
    said = json.loads(await _run(["nft", "-j", "list", "tables"], "", ""))
    found: dict[str, set[str]] = {
        entry["table"]["name"]: set()
        for entry in said["nftables"]
        if "table" in entry and entry["table"]["name"].startswith(prefix)
    }
    if found:
        said = json.loads(await _run(["nft", "-j", "list", "chains"], "", ""))
        for entry in said["nftables"]:
            chain = entry.get("chain")
            if chain is not None and chain["table"] in found:
                found[chain["table"]].add(chain["name"])
    return found


async def _run(argv: list[str], text: str, namespace: str, what: str = "an uplink") -> bytes:
    if namespace:
        argv = ["nsenter", f"--net={netns.FOLDER / namespace}", "--", *argv]
    try:
        done = await run(argv, input=text.encode(), timeout=_LIMIT, max_output=_MAX_OUTPUT)
    except CommandFailed as error:
        said = str(error.details.get("stderr", "")).splitlines()
        # It shows the place of each error below its message.
        why = next((line for line in said if "Error:" in line), error.message)
        raise NetworkFailed(
            f"nftables refused the rules of {what}: {why.partition('Error:')[2].strip() or why};"
            " `lab doctor` tells what is missing"
        ) from error
    return done.stdout
