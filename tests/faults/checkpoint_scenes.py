"""Scenes of checkpoints, forks and classes.

The lab is one small node, and stays up between two deaths: what is prepared again is only what the
last one may have changed.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace

from labd.client.client import Client
from labd.model.errors import NotFound
from tests.faults.scene import LAB, Outcome, Scene, settle
from tests.system.harness import until

_NODE = """\
    image: bootsector
    machine: pc
    disk_bus: ide
    memory: 16 MiB
    accel: tcg
    nics: {eth0: {network: lan, model: e1000}}
    disks: {data: {size: 1 MiB, bus: ide}}
    ready: {console: "labd: ready", timeout: 60s}
"""
_SMALL = f"""\
name: {LAB}
networks: {{lan: {{}}}}
nodes:
  a:
{_NODE}"""
_TWO = f"""\
name: {LAB}
networks: {{lan: {{subnet: 10.0.0.0/24, dhcp: true}}}}
nodes:
  a:
{_NODE}  b:
{_NODE}"""
# A guest with an agent, which is told that it is a copy.
_TOLD = f"""\
name: {LAB}
nodes: {{a: {{image: tiny, memory: 128 MiB, ready: {{timeout: 300s}}}}}}
"""
_UP: Outcome = {"": "running", "a": "ready"}
_STOPPED: Outcome = {"": "stopped", "a": "stopped"}
_NONE: Outcome = {}
_BASE, _FRESH, _CLASS = "base", "fresh", "k"
_ARCHIVES: dict[str, bytes] = {}  # socket -> an exported checkpoint of that daemon


def _have_lab(client: Client, text: str = _SMALL) -> None:
    """Have the lab running, and nothing beside it."""
    names = {lab["name"]: lab["state"] for lab in client.labs()}
    for pool in client.pools.all():
        client.pools.cool(pool["checkpoint"])
    for found in client.classes.all():
        client.classes.destroy(found["name"])
    until(lambda: not client.classes.all(), "no class is left", 180)
    for name in names.keys() - {LAB}:
        with contextlib.suppress(NotFound):  # its class has done it
            settle(client, client.act("destroy", name, force=True))
    if names.get(LAB) != "running":
        settle(client, client.up(LAB, text), 360)
    for record in client.checkpoints.all():
        if record["name"] == _FRESH:
            client.checkpoints.remove(_FRESH)


def _have_checkpoint(client: Client) -> None:
    """Have the lab running, and a checkpoint of it."""
    _have_lab(client)
    if not client.checkpoints.all():
        settle(client, client.checkpoints.save(LAB, _BASE))


def _have_unused_checkpoint(client: Client) -> None:
    _have_checkpoint(client)
    settle(client, client.checkpoints.save(LAB, _FRESH))


def _have_archive(client: Client) -> None:
    _have_checkpoint(client)
    if client.transport.path not in _ARCHIVES:
        file = io.BytesIO()
        client.checkpoints.export(_BASE, file)
        _ARCHIVES[client.transport.path] = file.getvalue()


def _have_pool(client: Client) -> None:
    """Have a fork of the checkpoint that stands ready."""
    _have_checkpoint(client)
    _warm(client)


def _warm(client: Client) -> None:
    client.pools.warm(_BASE, 1)
    until(lambda: _pools_full(client), "the pool is full")


def _pools_full(client: Client) -> bool:
    return all(
        [member["state"] for member in pool["members"]] == ["ready"] * pool["size"]
        for pool in client.pools.all()
    )


def _save_and_fork(client: Client) -> object:
    settle(client, client.checkpoints.save(LAB, _FRESH))
    return client.checkpoints.fork(_FRESH, "copy")[0]


def _start_class(client: Client) -> object:
    client.classes.start(_CLASS, _BASE, [{"name": "ann"}])
    until(lambda: _class_done(client), "the class is there")
    return None


def _start_class_of_template(client: Client) -> object:
    client.classes.start(_CLASS, "", [{"name": "ann"}], template={"text": _SMALL})
    until(lambda: _class_done(client), "the class is there", 180)
    until(
        lambda: all(lab["name"] != _CLASS for lab in client.labs()), "the first copy is gone", 180
    )
    return None


def _class_done(client: Client) -> bool:
    return all(client.classes.get(found["name"])["done"] for found in client.classes.all())


SCENES: dict[str, Scene] = {
    "checkpoint": Scene(
        prepare=_have_lab,
        ask=lambda c: c.checkpoints.save(LAB, _FRESH),
        ends={LAB: [_UP]},
        lasting=True,
        recovery=("snapshots.abandon:before", "snapshots.abandon:after"),
    ),
    "checkpoint-stop": Scene(
        prepare=_have_lab,
        ask=lambda c: c.checkpoints.save(LAB, _FRESH, mode="stop"),
        ends={LAB: [_UP, _STOPPED]},
        lasting=True,
        recovery=("checkpoints.sweep:before", "checkpoints.sweep:after"),
    ),
    "fork": Scene(
        prepare=_have_checkpoint,
        ask=lambda c: c.checkpoints.fork(_BASE, "copy")[0],
        ends={LAB: [_UP], "copy": [_UP, _NONE]},
        lasting=True,
    ),
    "restore": Scene(
        prepare=_have_checkpoint,
        ask=lambda c: c.checkpoints.restore(LAB, _BASE),
        ends={LAB: [_UP]},
        lasting=True,
    ),
    "pool": Scene(
        prepare=_have_checkpoint,
        ask=_warm,
        ends={LAB: [_UP]},
        settled=_pools_full,
        lasting=True,
        only={
            "inventory.commit",
            "keys.ensure",
            "networks.apply",
            "networks.open_taps",
            "storage.child",
            "checkpoints.incoming",
            "snapshots.launch",
            "snapshots.loaded",
        },
    ),
    "pool-take": Scene(
        prepare=_have_pool,
        ask=lambda c: c.checkpoints.fork(_BASE, "copy")[0],
        ends={LAB: [_UP], "copy": [_UP, _NONE]},
        settled=_pools_full,
        lasting=True,
        # The other places are those of a fork.
        only={"inventory.commit", "snapshots.loaded", "nodes.resume"},
    ),
    "pool-cool": Scene(
        prepare=_have_pool,
        ask=lambda c: c.pools.cool(_BASE),
        ends={LAB: [_UP]},
        settled=_pools_full,
        lasting=True,
        only={"inventory.commit", "nodes.kill", "networks.remove"},
    ),
    "checkpoint-rm": Scene(
        prepare=_have_unused_checkpoint,
        ask=lambda c: c.checkpoints.remove(_FRESH),
        ends={LAB: [_UP]},
        lasting=True,
    ),
    "checkpoint-import": Scene(
        prepare=_have_archive,
        ask=lambda c: c.checkpoints.receive(
            _FRESH, io.BytesIO(_ARCHIVES[c.transport.path]), len(_ARCHIVES[c.transport.path])
        ),
        ends={LAB: [_UP]},
        lasting=True,
    ),
    "class": Scene(
        prepare=_have_checkpoint,
        ask=_start_class,
        ends={LAB: [_UP], f"{_CLASS}-ann": [_UP, _NONE]},
        settled=_class_done,
        lasting=True,
    ),
    "class-of-template": Scene(
        prepare=_have_lab,
        ask=_start_class_of_template,
        ends={LAB: [_UP], f"{_CLASS}-ann": [_UP, _NONE]},
        settled=lambda c: _class_done(c) and all(lab["name"] != _CLASS for lab in c.labs()),
        lasting=True,
        # The other places are those of a boot, a save and a fork, and of the scene class.
        only={
            "inventory.commit",
            "keys.ensure",
            "nodes.launch",
            "snapshots.save",
            "checkpoints.publish",
            "nodes.kill",
        },
    ),
    "copy-is-told": Scene(
        prepare=lambda c: _have_lab(c, _TOLD),
        ask=_save_and_fork,
        ends={LAB: [_UP], "copy": [_UP, _NONE]},
        lasting=True,
        only={"snapshots.set_clock", "snapshots.authorize"},
        image="tiny",
    ),
}


def of_two(name: str) -> Scene:
    """Return a scene, its lab with two nodes."""
    scene = SCENES[name]

    def prepare(client: Client) -> None:
        _have_lab(client, _TWO)
        scene.prepare(client)

    return replace(scene, prepare=prepare)
