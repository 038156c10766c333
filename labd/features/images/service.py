"""Images and profiles: files by the store, names and rows by the inventory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Self

from labd.core.adapters import Adapters
from labd.core.operations import Operations
from labd.host.supervision import TaskSupervisor
from labd.model.errors import Conflict, InputError, InUse, LabdError, NotFound
from labd.model.events import EventDraft, EventType
from labd.model.images import Image, ImageFormat, Profile
from labd.model.names import check_name, did_you_mean
from labd.model.records import OperationRecord
from labd.model.request_kinds import ImageBuildRequest, ImageImportRequest
from labd.model.specs import MAX_VCPUS
from labd.model.units import MIB

log = logging.getLogger(__name__)


class Library:
    """The catalogue's use-cases."""

    def __init__(self, adapters: Adapters, operations: Operations) -> None:
        self._adapters = adapters
        self._operations = operations
        self._incoming: set[str] = set()

    # images

    async def all(self) -> Sequence[Image]:
        """Return all images by name."""
        return await self._adapters.inventory.images()

    async def profiles(self) -> Sequence[Profile]:
        """Return all profiles by name."""
        return await self._adapters.inventory.profiles()

    async def image(self, name: str) -> tuple[Image, Sequence[str]]:
        """Return an image and what uses it: `LAB/NODE`, and `profile NAME`.

        Raises:
            NotFound: There is none.
        """
        image = await self._adapters.inventory.image(name)
        if image is None:
            names = [i.name for i in await self._adapters.inventory.images()]
            raise NotFound(f"there is no image {name}{did_you_mean(name, names)}")
        return image, await self._users(image)

    async def _users(self, image: Image) -> list[str]:
        profiles = await self._adapters.inventory.profiles()
        by_profile = {p.name for p in profiles if p.image in {image.name, image.digest}}
        users = [f"profile {name}" for name in sorted(by_profile)]
        for lab in await self._adapters.inventory.labs():
            for spec in (lab.spec, lab.previous):
                users.extend(
                    f"{lab.name}/{node.name}"
                    for node in (spec.nodes if spec else ())
                    if image.name in {node.image, node.cdrom}
                    or image.digest in {node.image, node.cdrom}
                    or (not node.image and node.profile in by_profile)
                )
        users.extend(
            f"checkpoint {record.name}"
            for record in await self._adapters.inventory.checkpoints()
            if any(node.image == image.digest for node in record.nodes)
        )
        return list(dict.fromkeys(users))

    @asynccontextmanager
    async def _reserved(self, name: str) -> AsyncIterator[None]:
        """Hold a name while its image comes in.

        Raises:
            Conflict: It is taken, or an image of that name is coming in.
        """
        check_name(name, "image")
        if name in self._incoming:
            raise Conflict(f"an image {name} is being imported at this moment; wait for it")
        if await self._adapters.inventory.image(name) is not None:
            raise Conflict(
                f"there is an image {name} already; choose another --name, or remove it with "
                f"`lab image rm {name}`"
            )
        self._incoming.add(name)
        try:
            yield
        finally:
            self._incoming.discard(name)

    async def receive(
        self,
        name: str,
        chunks: AsyncIterator[bytes],
        *,
        format: ImageFormat | None,
        sha256: str,
        source: str,
        kernel_size: int | None,
        cmdline: str,
        ready_pattern: str,
    ) -> Image:
        """Take an upload (see `Images.receive`)."""
        async with self._reserved(name):
            try:
                image = await self._adapters.images.receive(
                    name,
                    chunks,
                    format=format,
                    sha256=sha256,
                    source=source,
                    kernel_size=kernel_size,
                    cmdline=cmdline,
                )
            except LabdError as error:
                await self._failed(name, error)
                raise
            return await self._add(replace(image, ready_pattern=ready_pattern))

    async def download(
        self, name: str, url: str, *, format: ImageFormat | None, sha256: str
    ) -> OperationRecord:
        """Take a URL."""
        if not url.startswith(("http://", "https://")):
            raise InputError(f"{url[:80]!r} is no http or https URL")

        async def fetch(relay: _Relay) -> Image:
            def progress(done: int, total: int | None) -> None:
                relay.emit(done, total, f"downloading {name}")

            return await self._adapters.images.download(
                name, url, format=format, sha256=sha256, progress=progress
            )

        return await self._begin(ImageImportRequest(name=name, url=url), fetch)

    async def build(self, recipe: str, name: str) -> OperationRecord:
        """Build a recipe."""

        async def make(relay: _Relay) -> Image:
            return await self._adapters.images.build(
                recipe, name, lambda text: relay.emit(0, None, text)
            )

        return await self._begin(ImageBuildRequest(name=name, recipe=recipe), make)

    async def _begin(
        self,
        request: ImageImportRequest | ImageBuildRequest,
        bring: Callable[[_Relay], Awaitable[Image]],
    ) -> OperationRecord:
        name = request.name
        async with self._reserved(name):
            pass  # a name that is taken is refused now, not later

        async def work(operation: OperationRecord) -> None:
            async with (
                self._reserved(name),
                _Relay(self._operations, operation, self._adapters.tasks) as relay,
            ):
                try:
                    image = await bring(relay)
                except LabdError as error:
                    await self._failed(name, error, operation.id)
                    raise
                await self._add(image, operation.id)

        return await self._operations.begin("", request, work)

    async def _add(self, image: Image, operation: str = "") -> Image:
        """Write the row; its files go again unless it is committed."""
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._discard_unused, image)
            await self._write(image, operation, undo.pop_all)
        return image

    async def _discard_unused(self, image: Image) -> None:
        """Remove the files of an image that has no row, unless another may stand for them."""
        if self._incoming - {image.name}:
            return  # one of them may be the same file; what is left over goes at the next start
        if all(other.digest != image.digest for other in await self._adapters.inventory.images()):
            await self._adapters.images.discard(image)

    async def _write(self, image: Image, operation: str, then: Callable[[], object]) -> None:
        async with self._adapters.inventory.transaction() as tx:
            tx.on_commit(then)
            await tx.put_image(image)
            await tx.emit(
                EventDraft(
                    type=EventType.IMAGE_ADDED,
                    subject=image.name,
                    operation=operation,
                    data={
                        "digest": image.digest,
                        "format": str(image.format),
                        "size": image.size,
                    },
                )
            )

    async def _failed(self, name: str, error: LabdError, operation: str = "") -> None:
        async with self._adapters.inventory.transaction() as tx:
            await tx.emit(
                EventDraft(
                    type=EventType.IMAGE_FAILED,
                    subject=name,
                    operation=operation,
                    data={"code": error.code, "reason": error.message},
                )
            )

    async def remove(self, name: str) -> None:
        """Remove an image.

        Raises:
            NotFound: There is none.
            InUse: A lab or a profile needs it.
        """
        async with self._adapters.inventory.transaction() as tx:
            image, users = await self.image(name)
            if users:
                raise InUse(
                    f"image {name} is used by {', '.join(users[:5])}"
                    f"{' and others' if len(users) > 5 else ''}; destroy or change these first",
                    users=users,
                )
            await tx.delete_image(name)
            await tx.emit(EventDraft(type=EventType.IMAGE_REMOVED, subject=name))
        await self._discard_unused(image)

    # profiles

    async def profile(self, name: str) -> Profile:
        """Return a profile.

        Raises:
            NotFound: There is none.
        """
        profile = await self._adapters.inventory.profile(name)
        if profile is None:
            names = [p.name for p in await self._adapters.inventory.profiles()]
            raise NotFound(f"there is no profile {name}{did_you_mean(name, names)}")
        return profile

    async def add_profile(self, profile: Profile) -> Profile:
        """Add a profile; the same one again changes nothing.

        Raises:
            InputError: Its image does not exist, or its numbers make no sense.
            Conflict: The name is another profile's.
        """
        check_name(profile.name, "profile")
        if not 1 <= profile.vcpus <= MAX_VCPUS:
            raise InputError(f"profile {profile.name}: vcpus must be 1 to {MAX_VCPUS}")
        if profile.memory < MIB:
            raise InputError(f"profile {profile.name}: memory must be 1 MiB or more")
        async with self._adapters.inventory.transaction() as tx:
            await self.image(profile.image)
            there = await self._adapters.inventory.profile(profile.name)
            if there == profile:
                return there
            if there is not None:
                raise Conflict(
                    f"there is another profile {profile.name} already; remove it first with "
                    f"`lab profile rm {profile.name}`"
                )
            await tx.put_profile(profile)
            await tx.emit(
                EventDraft(
                    type=EventType.PROFILE_ADDED,
                    subject=profile.name,
                    data={"image": profile.image},
                )
            )
        return profile

    async def remove_profile(self, name: str) -> None:
        """Remove a profile.

        Raises:
            NotFound: There is none.
            InUse: A lab names it.
        """
        async with self._adapters.inventory.transaction() as tx:
            await self.profile(name)
            users = [
                f"{lab.name}/{node.name}"
                for lab in await self._adapters.inventory.labs()
                for spec in (lab.spec, lab.previous)
                for node in (spec.nodes if spec else ())
                if node.profile == name
            ]
            if users:
                users = list(dict.fromkeys(users))
                raise InUse(f"profile {name} is used by {', '.join(users[:5])}", users=users)
            await tx.delete_profile(name)
            await tx.emit(EventDraft(type=EventType.PROFILE_REMOVED, subject=name))


class _Relay:
    """Carries progress from worker threads to an operation; ends with all of it told."""

    def __init__(
        self, operations: Operations, operation: OperationRecord, tasks: TaskSupervisor
    ) -> None:
        self._operations = operations
        self._tasks = tasks
        self._operation = operation
        self._loop = asyncio.get_running_loop()
        self._pending: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*self._pending, return_exceptions=True)

    def emit(self, done: int, total: int | None, text: str) -> None:
        """Tell progress; from any thread."""
        self._loop.call_soon_threadsafe(self._tell, done, total, text)

    def _tell(self, done: int, total: int | None, text: str) -> None:
        task = self._tasks.spawn("progress", self._write(done, total, text))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _write(self, done: int, total: int | None, text: str) -> None:
        with suppress(LabdError):  # the outcome is what counts
            await self._operations.progress(self._operation, done, total, text)
