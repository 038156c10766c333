"""MkDocs hooks: bring pages that lie outside of docs/ into the site, and lead links to them.

In the repository every link is relative to its file, so that a code forge follows it. The site has
other places for some files; links are rewritten as each page is read, and what is left over is a
broken link, of which MkDocs complains.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]


def _pages() -> dict[str, str]:
    """Return the files outside of docs/ that are part of the site: path -> place in the site."""
    places = {"README.md": "index.md", "LICENSE": "LICENSE.txt"}
    for name in ("ARCHITECTURE", "CHANGELOG", "CONTRIBUTING", "SECURITY"):
        places[f"{name}.md"] = f"{name.lower()}.md"
    for page in sorted((ROOT / "lab-templates").glob("*.md")):
        places[f"lab-templates/{page.name}"] = f"lab-templates/{page.name}"
    for page in sorted((ROOT / "plugins").glob("*/README.md")):
        places[f"plugins/{page.parent.name}/README.md"] = f"plugins/{page.parent.name}.md"
    return places


PAGES = _pages()
# Folders have no page of their own.
_PLACES = {**PAGES, "docs": "index.md", "lab-templates": "templates.md"}
_SOURCES = {place: path for path, place in PAGES.items()}
_LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
_FENCE = re.compile(r"^(```|~~~)")
_CODE_IN_ROW = re.compile(r"`[^`]*`")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside of docs/ to the site."""
    from mkdocs.structure.files import File

    for path, place in PAGES.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Lead links to where the site has their targets."""
    place = page.file.src_uri
    return rewrite(markdown, _SOURCES.get(place, f"docs/{place}"), place)


def rewrite(markdown: str, source: str, place: str) -> str:
    """Return the text of a page with its links led into the site.

    Args:
        markdown: The text, as it is in the repository.
        source: Path of the page in the repository.
        place: Path of the page in the site's sources.
    """
    here = posixpath.dirname(place)

    def lead(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[2]))
        there = _PLACES.get(target) or target.removeprefix("docs/")
        if there == target and not (ROOT / "docs" / target).exists():
            return found[0]
        return found[1] + posixpath.relpath(there, here or ".") + found[3]

    lines, fenced = [], False
    for line in markdown.split("\n"):
        fenced ^= bool(_FENCE.match(line.lstrip()))
        text = line if fenced else _LINK.sub(lead, line)
        if not fenced and text.startswith("|"):
            # In a table a forge wants `a\|b`; Python-Markdown would show the backslash.
            text = _CODE_IN_ROW.sub(lambda found: found[0].replace("\\|", "|"), text)
        lines.append(text)
    return "\n".join(lines)
