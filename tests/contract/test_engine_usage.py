"""What nodes take, on an engine with fakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from labd.model.errors import NotFound
from labd.model.records import OperationKind
from labd.model.specs import NicSpec
from tests.fakes.daemon import USED, engine_over_fakes
from tests.fakes.labs import node, spec


async def test_nodes_that_run_with_the_sum_of_their_ports(tmp_path: Path) -> None:
    nics = tuple(
        NicSpec(name=f"eth{n}", network="lan", mac=f"02:00:00:00:00:0{n}") for n in range(2)
    )
    async with engine_over_fakes(tmp_path) as home:
        await home.up(spec(node("a", nics=nics), node("b"), networks=("lan",)))
        await home.done(home.engine.labs.up("other", spec(node("c"))))
        await home.ok(home.engine.labs.act(OperationKind.STOP, "web", ["b"], force=True))
        found = await home.engine.usage.look()
        assert [(item.lab, item.node) for item in found.nodes] == [("other", "c"), ("web", "a")]
        (web,) = (await home.engine.usage.look("web")).nodes
        assert web.process == USED
        assert (web.ports.received_packets, web.ports.sent_bytes) == (2, 120)
        assert found.host.memory_available == home.memory
        with pytest.raises(NotFound):
            await home.engine.usage.look("nothing")
