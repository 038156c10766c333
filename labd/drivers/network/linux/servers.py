"""What labd serves in labs: one dnsmasq a lab (`drivers.network.port.Servers`)."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from labd.drivers.network.linux import dnsmasq, leases, links, neighbours, netns
from labd.host import identity
from labd.host.backoff import Backoff
from labd.host.spawn import PACKAGES, SEARCH_PATH, Child
from labd.host.supervision import TaskSupervisor, cancel_all
from labd.host.threads import quick
from labd.model.errors import CommandFailed, LabdError
from labd.model.network import LabNetworkPlan
from labd.model.process import ProcessId
from labd.model.serving import Lease, Neighbour, ServerChange, ServerPlan, ServerState

log = logging.getLogger(__name__)

_FIRST_DELAY, _LAST_DELAY = 0.2, 30.0  # seconds between starts
_STEADY = 60.0  # seconds of life after which a start has worked
_LOOK = 0.25  # seconds between looks at a lease file

Report = Callable[[ServerChange], None]


class _Server:
    """One lab's dnsmasq, kept running."""

    def __init__(
        self, namespace: str, folder: Path, uid: int, report: Report, tasks: TaskSupervisor
    ) -> None:
        self.namespace = namespace
        self.folder = folder
        self._uid = uid
        self._report = report
        self._supervisor = tasks
        self._lock = asyncio.Lock()
        self._plan: ServerPlan | None = None
        self._process: ProcessId | None = None
        self._child: Child | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def known(self) -> bool:
        """Whether this daemon keeps it."""
        return self._plan is not None

    @property
    def leases(self) -> Path:
        return self.folder / dnsmasq.LEASES

    async def apply(self, plan: ServerPlan) -> None:
        """Have exactly this served."""
        async with self._lock:
            if plan == self._plan and self._process and identity.is_alive(self._process):
                return
            first = self._plan is None
            await self._rest()
            await quick(dnsmasq.write_files, self.folder, plan, self._uid)
            found = await self._fit(plan)
            if found is None:
                await self._end()
                await self._start(plan)
            else:
                if found != self._process:
                    self._let_go()
                    self._process = found
                # Also when nothing was written: an earlier daemon may have died before this.
                dnsmasq.reload(found)
            self._plan = plan
            await quick(dnsmasq.drop_old_configs, self.folder, plan)
            name, supervise = f"dnsmasq {self.namespace}", self._supervisor.supervise
            self._tasks = [supervise(name, partial(self._keep, plan))]
            if plan.dhcp:
                stamp = leases.stamp(self.leases)
                self._tasks.append(supervise(name, partial(self._look, [stamp])))
            if first:
                self._report(ServerChange(namespace=self.namespace, state=ServerState.LEASES))

    async def _fit(self, plan: ServerPlan) -> ProcessId | None:
        """Return the process that has read this configuration; others of this lab are ended."""
        fit = None
        for found in await quick(dnsmasq.scan, self.folder.parent, self._uid):
            if found.folder != self.folder:
                continue
            same = found.digest == dnsmasq.digest_of(plan)
            if fit is None and same and dnsmasq.is_inside(found.process, self.namespace):
                fit = found.process
            elif found.process != self._process:
                await dnsmasq.end(found.process)
        return fit

    async def _start(self, plan: ServerPlan) -> None:
        self._child = await dnsmasq.start(self.namespace, self.folder, plan, self._uid)
        self._process = self._child.process

    async def _keep(self, plan: ServerPlan) -> None:
        """Start it again whenever it ends, with back-off."""
        backoff = Backoff(_FIRST_DELAY, _LAST_DELAY, steady=_STEADY)
        while True:
            backoff.begin()
            if self._process is not None:
                await self._await_end(self._process)
                words = await quick(dnsmasq.last_words, self.folder)
                log.warning("dnsmasq of %s ended: %s", self.namespace, words)
                change = ServerChange(
                    namespace=self.namespace, state=ServerState.ENDED, reason=words
                )
                self._process = None
                self._report(change)
            await asyncio.sleep(backoff.pause())
            try:
                await quick(dnsmasq.write_files, self.folder, plan, self._uid)
                await self._start(plan)
            except LabdError as error:
                log.warning("dnsmasq of %s does not start: %s", self.namespace, error)
                continue
            self._report(ServerChange(namespace=self.namespace, state=ServerState.RESTORED))

    async def _await_end(self, process: ProcessId) -> None:
        if self._child is not None and self._child.process == process:
            await self._child.wait()  # which also reaps it
        else:
            await identity.watch_exit(process)

    async def _look(self, told: list[tuple[int, int]]) -> None:
        """Tell when the lease file has changed, and rests: it is written in place.

        Args:
            told: The stamp of the file that was told last, which is kept up to date.
        """
        last = told[0]
        looks = 0
        while True:
            await asyncio.sleep(_LOOK)
            now = await quick(leases.stamp, self.leases)
            if now == last and now != told[0]:
                told[0] = now
                self._report(ServerChange(namespace=self.namespace, state=ServerState.LEASES))
            last = now
            looks += 1
            if looks % 40 == 0:
                await quick(dnsmasq.bound_log, self.folder)

    async def remove(self) -> None:
        """End it and remove its files."""
        async with self._lock:
            await self._rest()
            self._plan = None
            await self._end()
            for found in await quick(dnsmasq.scan, self.folder.parent, self._uid):
                if found.folder == self.folder:
                    await dnsmasq.end(found.process)
            await quick(dnsmasq.remove_files, self.folder)

    async def _end(self) -> None:
        if self._process is not None:
            await dnsmasq.end(self._process)
        if self._child is not None:
            await self._child.stop(grace=0)
        self._process = self._child = None

    async def _rest(self) -> None:
        tasks, self._tasks = self._tasks, []
        await cancel_all(tasks)

    def _let_go(self) -> None:
        if self._child is not None:
            self._child.release()
        self._child = self._process = None

    async def close(self) -> None:
        """Let go of it; it runs on."""
        async with self._lock:
            await self._rest()
            self._let_go()


class LabServers:
    """The dnsmasqs of one root.

    Args:
        folder: Holds a folder for each lab, by its key.
        uid: The user that they run as.
        tasks: Runs what keeps them.
    """

    def __init__(self, folder: Path, uid: int, tasks: TaskSupervisor | None = None) -> None:
        self._folder = folder
        self._tasks = tasks or TaskSupervisor()
        self._uid = uid
        self._servers: dict[str, _Server] = {}
        self._listener: Report = lambda _: None

    def listen(self, listener: Report) -> None:
        """Have `listener` called in the loop; see the port."""
        self._listener = listener

    async def check(self, plan: LabNetworkPlan) -> None:
        """True if a plan can be served; see the port."""
        if plan.server is not None and shutil.which("dnsmasq", path=SEARCH_PATH) is None:
            raise CommandFailed(
                "dhcp and dns need dnsmasq, which is not found; install it: "
                f"apt-get install {PACKAGES['dnsmasq']}",
                program="dnsmasq",
            )

    def _server(self, namespace: str) -> _Server:
        if namespace not in self._servers:
            folder = self._folder / namespace.rpartition("-")[2]
            self._servers[namespace] = _Server(
                namespace, folder, self._uid, self._listener, self._tasks
            )
        return self._servers[namespace]

    async def apply(self, plan: LabNetworkPlan) -> None:
        """Have exactly the plan's server; see the port."""
        if plan.server is None:
            # A lab that serves nothing shall not cost a look at all processes.
            server = self._server(plan.namespace)
            if await quick(server.folder.exists):
                await self.remove(plan.namespace)
            else:
                self._servers.pop(plan.namespace, None)
            return
        new = plan.namespace not in self._servers
        server = self._server(plan.namespace)
        try:
            await server.apply(await _pinned(plan, plan.server))
        except BaseException:
            if new:
                await self.remove(plan.namespace)
            raise

    async def remove(self, namespace: str) -> None:
        """End a lab's server and remove its files; see the port."""
        server = self._server(namespace)
        if server.known or await quick(server.folder.exists):
            await server.remove()
        self._servers.pop(namespace, None)

    async def sweep(self, keep: Iterable[str]) -> Sequence[str]:
        """End the servers of labs that are no more; see the port."""
        wanted = {namespace.rpartition("-")[2] for namespace in keep}
        gone = set()
        for found in await quick(dnsmasq.scan, self._folder, self._uid):
            if found.folder.name not in wanted:
                await dnsmasq.end(found.process)
                gone.add(found.folder.name)
        with suppress(FileNotFoundError):
            for path in await quick(lambda: list(self._folder.iterdir())):
                if path.name not in wanted:
                    await quick(dnsmasq.remove_files, path)
                    gone.add(path.name)
        return sorted(gone)

    async def leases(self, namespace: str) -> Sequence[Lease]:
        """Return what has been given out; see the port."""
        server = self._servers.get(namespace)
        return [] if server is None else await quick(leases.read, server.leases)

    async def neighbours(self, namespace: str) -> Sequence[Neighbour]:
        """Return whom the kernel has heard of; see the port."""
        if not await quick(netns.exists, namespace):
            return []
        return await netns.inside(namespace, neighbours.read)

    async def close(self) -> None:
        """Let go of all; they run on."""
        for server in self._servers.values():
            await server.close()


async def _pinned(plan: LabNetworkPlan, server: ServerPlan) -> ServerPlan:
    """Return a server's plan with the bridges as they are: it hears nothing of one made anew."""
    there = await netns.inside(plan.namespace, links.bridge_indexes)
    lines = [f"# {b.bridge} is interface {there.get(b.bridge, 0)}\n" for b in plan.bridges]
    return replace(server, config=server.config + "".join(lines))
