"""What is heard while a nemesis is at work: a subscriber that comes back when it was cut off."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from typing import Any

from bench.chaos.fold import State
from bench.events import address_of
from labd.client.client import Client
from labd.events.mqtt import BrokerAddress, MqttError, connect
from labd.model.errors import LabdError

Heard = list[dict[str, Any]]


class Subscriber:
    """Hears all events of a daemon in a thread.

    Attributes:
        heard: What each connection heard.
    """

    def __init__(self, path: str) -> None:
        self.heard: list[Heard] = []
        self._path = path
        self._ending = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hear no more."""
        self._ending.set()
        self._thread.join(30)

    async def _run(self) -> None:
        listening = asyncio.create_task(self._listen_for_ever())
        await asyncio.to_thread(self._ending.wait)
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening

    async def _listen_for_ever(self) -> None:
        while True:
            with contextlib.suppress(MqttError, LabdError, OSError, TimeoutError, KeyError):
                await self._listen()
            await asyncio.sleep(0.2)

    async def _listen(self) -> None:
        address, host = await asyncio.to_thread(self._broker)
        async with connect(address, identifier="history") as client:
            # In one packet: an event that comes between two subscriptions would be a gap.
            topics = [(f"labd/v1/{host}/{topic}", 1) for topic in ("events", "lab/+/events")]
            await client.subscribe(topics)
            heard: Heard = []
            self.heard.append(heard)
            async for message in client.messages:
                heard.append(json.loads(bytes(message.payload)))

    def _broker(self) -> tuple[BrokerAddress, str]:
        with Client(self._path, timeout=10.0) as client:
            info = client.info()
        return address_of(info["broker"]), str(info["host_id"])


def replay(client: Client) -> Heard:
    """Return all events by the replay endpoint."""
    found: Heard = []
    while page := client.events(int(found[-1]["seq"]) if found else 0)["events"]:
        found += page
    return found


def listed(client: Client) -> State:
    """Return what the API lists."""
    labs = client.labs()
    return State(
        labs={lab["name"]: lab["state"] for lab in labs},
        nodes={
            f"{lab['name']}/{node['name']}": node["state"] for lab in labs for node in lab["nodes"]
        },
        operations={item["id"]: item["state"] for item in client.operations(limit=1000)},
        names={
            "image": {item["name"] for item in client.images()},
            "profile": {item["name"] for item in client.profiles()},
            "checkpoint": {item["name"] for item in client.checkpoints.all()},
            "plugin": {item["name"] for item in client.plugins() if item["enabled"]},
            "class": {item["name"] for item in client.classes.all()},
        },
    )
