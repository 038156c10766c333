"""What nodes take of the host, for `lab top` and for monitoring."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field

from labd.api import models
from labd.api.models import LabName
from labd.api.policy import PolicyDep
from labd.api.rules import Scope, requires
from labd.api.services import service
from labd.features.usage.service import UsageService
from labd.features.usage.views import Usage
from labd.model.people import Thing
from labd.model.usage import NodeUsage

router = APIRouter(tags=["usage"])

UsageDep = Annotated[UsageService, Depends(service(UsageService))]


class Host(models.Wire):
    """The host."""

    cpus: int
    memory: int
    memory_available: int
    disk_available: int = Field(description="Where labd keeps disks")
    memory_low: bool = Field(description="It is short of memory: the newest labs are paused")


class Node(models.Wire):
    """A node that runs. Counters grow from the start of its QEMU on."""

    lab: str
    node: str
    state: str
    vcpus: int
    memory: int = Field(description="Of the guest, as its template says")
    cpu: float = Field(description="Seconds")
    own: int = Field(description="Bytes of memory that it shares with no other")
    shared: int = Field(description="Bytes that others may use, too: of a fork, the frozen memory")
    written: int = Field(description="Bytes that the disk was made to write")
    received_packets: int
    sent_packets: int
    received_bytes: int
    sent_bytes: int


class Look(models.Wire):
    """One look; rates are differences over those of `clock`."""

    time: str
    clock: float = Field(description="Seconds of a clock that never jumps")
    host: Host
    nodes: list[Node]


def _node(usage: NodeUsage) -> Node:
    return Node(
        lab=usage.lab,
        node=usage.node,
        state=usage.state,
        vcpus=usage.vcpus,
        memory=usage.memory,
        cpu=usage.process.cpu,
        own=usage.process.own,
        shared=usage.process.shared,
        written=usage.process.written,
        received_packets=usage.ports.received_packets,
        sent_packets=usage.ports.sent_packets,
        received_bytes=usage.ports.received_bytes,
        sent_bytes=usage.ports.sent_bytes,
    )


def _look(found: Usage) -> Look:
    host = found.host
    return Look(
        time=found.time,
        clock=found.clock,
        host=Host(
            cpus=host.cpus,
            memory=host.memory,
            memory_available=host.memory_available,
            disk_available=host.disk_available,
            memory_low=host.memory_low,
        ),
        nodes=[_node(usage) for usage in found.nodes],
    )


@router.get("/usage")
@requires(Scope.LABS_READ)
async def get_usage(usage: UsageDep, policy: PolicyDep) -> Look:
    """Return what the running nodes that the caller may see have taken so far."""
    found = await usage.look()
    seen = await policy.labs()
    return _look(replace(found, nodes=[node for node in found.nodes if node.lab in seen]))


@router.get("/labs/{lab}/usage")
@requires(Scope.LABS_READ, about=Thing.LAB)
async def get_lab_usage(lab: LabName, usage: UsageDep) -> Look:
    """Return what the running nodes of a lab have taken so far."""
    return _look(await usage.look(lab))
