"""Images, profiles and plugins: the engine's use-cases on fakes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from labd.model.errors import ConfigError, Conflict, InputError, InUse, NotFound
from labd.model.images import Image, ImageFormat, Profile
from labd.model.plugins import InstalledPlugin, PluginChange
from labd.model.records import OperationKind
from labd.model.states import PluginState
from labd.model.units import MIB
from tests.fakes.daemon import FakeDaemon, engine_over_fakes
from tests.fakes.labs import image, node, spec

K = OperationKind
RAW = b"\0" * 4096
URL = "http://images.example/a.raw"


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with engine_over_fakes(tmp_path) as it:
        yield it


async def receive(home: FakeDaemon, name: str, chunks: AsyncIterator[bytes] | None = None) -> Image:
    async def once() -> AsyncIterator[bytes]:
        yield RAW

    return await home.engine.images.receive(
        name,
        chunks or once(),
        format=ImageFormat.RAW,
        sha256="",
        source="test",
        kernel_size=None,
        cmdline="",
        ready_pattern="up",
    )


# images


async def test_an_upload_is_added_and_told(home: FakeDaemon) -> None:
    seq = await home.seq()
    added = await receive(home, "mine")
    assert added.ready_pattern == "up"
    assert await home.story(seq) == ["image.added mine"]
    assert (await home.engine.images.image("mine"))[0] == added
    await home.engine.images.remove("mine")
    assert home.images.contents == {}
    assert (await home.story(seq))[1:] == ["image.removed mine"]
    with pytest.raises(NotFound, match="did you mean 'disk'"):
        await home.engine.images.image("disc")


async def test_a_name_is_held_while_its_image_comes_in(home: FakeDaemon) -> None:
    more = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield RAW
        await more.wait()

    first = asyncio.create_task(receive(home, "mine", slowly()))
    await home.settled()
    home.images.web[URL] = RAW
    with pytest.raises(Conflict, match="is being imported at this moment"):
        await receive(home, "mine")
    with pytest.raises(Conflict, match="is being imported at this moment"):
        await home.engine.images.download("mine", URL, format=None, sha256="")
    more.set()
    await first
    with pytest.raises(Conflict, match="there is an image mine already"):
        await receive(home, "mine")


async def test_an_upload_that_is_broken_off_frees_its_name(home: FakeDaemon) -> None:
    async def forever() -> AsyncIterator[bytes]:
        yield RAW
        await asyncio.Event().wait()

    seq = await home.seq()
    asked = asyncio.create_task(receive(home, "mine", forever()))
    await home.settled()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    assert await home.seq() == seq
    await receive(home, "mine")


async def test_an_import_by_url(home: FakeDaemon) -> None:
    home.images.web[URL] = RAW
    seq = await home.seq()
    done = await home.ok(
        home.engine.images.download("mine", URL, format=ImageFormat.RAW, sha256="")
    )
    assert done.progress["done"] == len(RAW)
    story = await home.story(seq)
    assert (story[0], story[-1]) == (
        "operation.started image-import",
        "operation.succeeded image-import",
    )
    assert set(story[1:-1]) == {"operation.progress image-import", "image.added mine"}


async def test_an_import_that_fails_is_told_and_frees_its_name(home: FakeDaemon) -> None:
    seq = await home.seq()
    error = await home.fails(home.engine.images.download("mine", URL, format=None, sha256=""))
    assert error["code"] == "download_failed"
    assert await home.story(seq) == [
        "operation.started image-import",
        "image.failed mine",
        "operation.failed image-import",
    ]
    await receive(home, "mine")
    with pytest.raises(InputError, match="is no http or https URL"):
        await home.engine.images.download("other", "file:///etc/passwd", format=None, sha256="")


async def test_a_build(home: FakeDaemon) -> None:
    await home.ok(home.engine.images.build("tiny", "tiny"))
    assert (await home.engine.images.image("tiny"))[0].format is ImageFormat.KERNEL
    error = await home.fails(home.engine.images.build("huge", "huge"))
    assert error["code"] == "bad_input"


async def test_an_image_in_use_stays(home: FakeDaemon) -> None:
    await home.engine.images.add_profile(Profile(name="small", image="disk"))
    await home.up(spec(node("a")))
    await home.up(spec(replace(node("b"), image="", profile="small")), name="other")
    with pytest.raises(InUse) as caught:
        await home.engine.images.remove("disk")
    assert caught.value.details["users"] == ["profile small", "other/b", "web/a"]
    with pytest.raises(InUse, match="other/b"):
        await home.engine.images.remove_profile("small")
    for name in ("web", "other"):
        await home.ok(home.engine.labs.act(K.DESTROY, name))
    await home.engine.images.remove_profile("small")
    await home.engine.images.remove("disk")


async def test_an_up_and_a_removal_at_one_moment(home: FakeDaemon) -> None:
    for turns in range(12):
        async with home.inventory.transaction() as tx:
            await tx.put_image(image("disk"))
        asked = asyncio.create_task(home.engine.labs.up("web", spec(node("a"))))
        for _ in range(turns):
            await asyncio.sleep(0)
        results = await asyncio.gather(
            asked, home.engine.images.remove("disk"), return_exceptions=True
        )
        await home.idle()
        refused = [result for result in results if isinstance(result, InputError | InUse)]
        assert len(refused) == 1, results
        if await home.inventory.lab("web") is not None:
            assert await home.states() == {"a": "ready"}
            await home.ok(home.engine.labs.act(K.DESTROY, "web"))


async def test_files_stay_while_another_name_needs_them(home: FakeDaemon) -> None:
    await receive(home, "one")
    await receive(home, "two")
    await home.engine.images.remove("one")
    assert len(home.images.contents) == 1
    more = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield RAW
        await more.wait()

    coming = asyncio.create_task(receive(home, "three", slowly()))
    await home.settled()
    await home.engine.images.remove("two")
    assert len(home.images.contents) == 1  # `three` may be the same file
    more.set()
    await coming
    assert len(home.images.contents) == 1


# profiles


async def test_profiles(home: FakeDaemon) -> None:
    small = Profile(name="small", image="disk", memory=64 * MIB)
    seq = await home.seq()
    assert await home.engine.images.add_profile(small) == small
    assert await home.engine.images.add_profile(small) == small
    assert await home.story(seq) == ["profile.added small"]
    with pytest.raises(Conflict, match="there is another profile small already"):
        await home.engine.images.add_profile(replace(small, vcpus=2))
    with pytest.raises(NotFound, match="there is no image nope"):
        await home.engine.images.add_profile(Profile(name="other", image="nope"))
    with pytest.raises(InputError, match="vcpus must be"):
        await home.engine.images.add_profile(replace(small, name="other", vcpus=0))
    with pytest.raises(InputError, match="memory must be"):
        await home.engine.images.add_profile(replace(small, name="other", memory=0))
    assert await home.engine.images.profile("small") == small
    await home.engine.images.remove_profile("small")
    with pytest.raises(NotFound):
        await home.engine.images.profile("small")
    assert (await home.story(seq))[1:] == ["profile.removed small"]


# plugins


async def test_a_plugin_is_enabled_and_disabled(home: FakeDaemon) -> None:
    await home.engine.plugins.start()
    seq = await home.seq()
    view = await home.engine.plugins.enable("hook", {"retries": 3})
    await home.settled()
    settings, uid = home.plugins.running["hook"]
    assert settings == {"url": "http://localhost", "retries": 3}
    assert uid == 700_960
    assert view.state is PluginState.RUNNING
    await home.engine.plugins.enable("hook", {"retries": 3})
    await home.settled()
    assert await home.story(seq) == ["plugin.enabled hook", "plugin.started hook"]
    await home.engine.plugins.enable("hook", {"retries": 4})  # new settings, another process
    assert home.plugins.running["hook"][0]["retries"] == 4
    view = await home.engine.plugins.disable("hook")
    assert view.state is PluginState.DISABLED
    assert home.plugins.running == {}
    assert (await home.story(seq))[-1] == "plugin.disabled hook"
    assert await home.engine.plugins.log("hook") == b"said\n"


async def test_enabled_plugins_run_again_under_the_next_daemon(home: FakeDaemon) -> None:
    home.plugins.plugins["gone"] = InstalledPlugin(name="gone")
    for name in ("hook", "gone"):
        await home.engine.plugins.enable(name, {})
    del home.plugins.plugins["gone"]
    await home.restart()
    assert home.plugins.running == {}
    await home.engine.plugins.start()
    assert set(home.plugins.running) == {"hook"}
    view = await home.engine.plugins.disable("gone")  # it is known, though not installed any more
    assert view.problem == "plugin gone is not installed"
    assert view.record is not None
    assert not view.record.enabled


async def test_crashes_of_plugins_are_told(home: FakeDaemon) -> None:
    await home.engine.plugins.start()
    seq = await home.seq()
    home.plugins.told(
        PluginChange(name="hook", state=PluginState.BACKOFF, status=1, reason="it ended")
    )
    await home.settled()
    assert await home.story(seq) == ["plugin.crashed hook"]


async def test_plugins_that_cannot_be_enabled(home: FakeDaemon) -> None:
    home.plugins.plugins["bad"] = InstalledPlugin(name="bad", problem="plugin.toml: no name")
    seq = await home.seq()
    with pytest.raises(ConfigError, match="no name"):
        await home.engine.plugins.enable("bad", {})
    for ask in (home.engine.plugins.disable("nope"), home.engine.plugins.enable("nope", {})):
        with pytest.raises(NotFound, match="there is no plugin nope"):
            await ask
    assert await home.seq() == seq


async def test_enabling_and_disabling_at_one_moment_end_as_was_asked_last(home: FakeDaemon) -> None:
    await asyncio.gather(
        home.engine.plugins.enable("hook", {}), home.engine.plugins.disable("hook")
    )
    (view,) = await home.engine.plugins.all()
    assert view.record is not None
    assert view.record.enabled is ("hook" in home.plugins.running)
