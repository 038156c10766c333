"""Tell what a built site would fetch from elsewhere, and which of its own links are broken.

Pages, style sheets and pictures are read. Scripts are not: the theme's has addresses of Mermaid, of
a repository's counts and of a polyfill. It asks them only where a page has diagrams, the site names
a repository, or the browser is older than ResizeObserver.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes that make a browser fetch. `a href` and `form action` wait for the reader.
_FETCHED = {"src", "srcset", "poster", "data", "href", "xlink:href"}
_WAITING = {"a", "area", "form"}
# rel of links that are names, not things to fetch.
_NAMES = {"canonical", "alternate", "prev", "next"}
_CSS = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])(?=(?:https?:)?//)([^"')\s]+)""")


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.linked: list[str] = []
        self.names: set[str] = set()
        self._style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.names |= {given[key] for key in ("id", "name") if key in given}
        self._style = tag == "style"
        self.fetched += _CSS.findall(given.get("style", ""))
        if tag in _WAITING:
            self.linked += [given["href"]] if "href" in given else []
            return
        if tag == "link" and _NAMES & set(given.get("rel", "").split()):
            return
        self.fetched += [given[name] for name in _FETCHED & set(given)]

    def handle_endtag(self, tag: str) -> None:
        self._style = self._style and tag != "style"

    def handle_data(self, data: str) -> None:
        if self._style:
            self.fetched += _CSS.findall(data)


def read(page: Path) -> _Page:
    """Read one page."""
    parsed = _Page()
    parsed.feed(page.read_text(encoding="utf-8"))
    return parsed


def complaints(site: Path) -> list[str]:
    """Return what is wrong with a site, a line for each thing fetched from elsewhere or missing."""
    pages = {page: read(page) for page in sorted(site.rglob("*.html"))}
    found = []
    for page, parsed in pages.items():
        name = page.relative_to(site)
        # The page for what is missing is shown at any depth, so its links begin at the top.
        base = site if name.name == "404.html" else page.parent
        found += [
            f"{name}: fetches {target}"
            for target in parsed.fetched
            if urlsplit(target).scheme in {"http", "https"} or target.startswith("//")
        ]
        for target in parsed.fetched + parsed.linked:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            to = site if parts.path.startswith("/") else base
            path = (to / unquote(parts.path.lstrip("/"))).resolve() if parts.path else page
            path = path / "index.html" if path.is_dir() else path
            if not path.is_file():
                found.append(f"{name}: leads to {target}, which is not there")
            elif (
                parts.fragment
                and path in pages
                and unquote(parts.fragment) not in pages[path].names
            ):
                found.append(f"{name}: leads to {target}, where nothing has that name")
    for sheet in sorted([*site.rglob("*.css"), *site.rglob("*.svg")]):
        name = sheet.relative_to(site)
        found += [f"{name}: fetches {url}" for url in _CSS.findall(sheet.read_text("utf-8"))]
    return found


def main() -> int:
    """Check the site that is named; print what is wrong."""
    wrong = complaints(Path(sys.argv[1]).resolve())
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
