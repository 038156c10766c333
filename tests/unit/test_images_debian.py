"""The debian recipe: where it takes packages from, and what it says when that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from labd.images.debian.recipe import Built, build, explained
from labd.images.debian.sources import chosen
from labd.model.errors import CommandFailed, StorageFailed

MAIN = "Debian|http://deb.example/debian/|bookworm|bookworm|main|/none"
SECURITY = "Debian|http://deb.example/security/|bookworm-security|bookworm-security|main|/none"
OTHERS = [
    "Debian|http://deb.example/debian/|bookworm|bookworm|non-free|/none",
    "Google|https://packages.example/apt/|cloud|cloud|main|/none",
    "garbage",
]


def test_only_the_distribution_s_own_sources_are_taken() -> None:
    found = chosen([SECURITY, MAIN, *OTHERS], [])
    assert found.suite == "bookworm"
    assert [line.split("] ")[-1].removeprefix("deb ") for line in found.lines] == [
        "http://deb.example/debian/ bookworm main",
        "http://deb.example/security/ bookworm-security main",
    ]


def test_the_digest_follows_packages_and_proxies(tmp_path: Path) -> None:
    lists = tmp_path / "Packages"
    line = MAIN.replace("/none", str(lists))
    digests = []
    for text in ("one", "two"):
        lists.write_text(text)
        digests.append(chosen([line], []).digest)
    digests.append(chosen([line], ['Acquire::http::Proxy "http://proxy.example:3128";']).digest)
    assert len(set(digests)) == 3
    assert chosen([line, *OTHERS], []).digest == digests[1]


def test_a_host_without_lists_is_told_what_to_do() -> None:
    with pytest.raises(CommandFailed) as caught:
        chosen(OTHERS, [])
    assert caught.value.message == (
        "apt knows no packages of Debian or Ubuntu; run `apt-get update` and try again"
    )


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        (
            "E: write error: No space left on device\nE: mmdebstrap failed to run",
            StorageFailed,
            "no room to build a debian image; make room or choose another cache folder",
        ),
        (
            "W: x\nE: Failed to fetch http://a/b  Could not resolve 'a'\nE: mmdebstrap failed",
            CommandFailed,
            (
                "apt cannot fetch the packages of the debian image: E: Failed to fetch "
                "http://a/b  Could not resolve 'a'; see that `apt-get update` works on this host, "
                "and try again"
            ),
        ),
        ("E: something else", CommandFailed, "mmdebstrap failed with exit status 1: E: else"),
    ],
)
def test_a_failure_says_what_to_do(said: str, kind: type[Exception], message: str) -> None:
    error = CommandFailed("mmdebstrap failed with exit status 1: E: else", stderr=said)
    found = explained(error)
    assert type(found) is kind
    assert found.message == message


def test_an_image_is_whole_or_not_there(tmp_path: Path) -> None:
    built = Built(folder=tmp_path)
    for name in ("disk", "kernel"):
        (tmp_path / name).touch()
    assert not built.complete()
    (tmp_path / "initrd").touch()
    assert built.complete()


async def test_a_cache_that_is_no_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(StorageFailed, match=r"^cannot build in .*/cache/debian: Not a directory; "):
        await build(tmp_path / "cache", lambda _: None)
