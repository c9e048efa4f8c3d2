"""Owns what can be wrong with a page without running anything of it: links that lead nowhere, paths of one machine, its size."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.paths import ROOT

_CODE = re.compile(r"^( *)```.*?^\1```\s*$", re.DOTALL | re.MULTILINE)
_INLINE_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
_HEADING = re.compile(r"^ {0,3}#{1,6} +(.+?)(?: +#+)? *$", re.MULTILINE)
_ANCHOR = re.compile(r"<a (?:id|name)=\"([^\"]+)\"")
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:")
_MACHINE = re.compile(r"(?<![\w.$}{~-])/(?:work|home|root|Users|mnt|media|tmp/[\w.]+)(?:/[\w.-]+)+")
_HIDDEN = re.compile(r"(^|/)(\.[^/]+|node_modules|build|dist|runs)/")


def pages(root: Path = ROOT) -> list[Path]:
    """Return every Markdown page below a folder, those in hidden folders and in what tools make left out."""
    found = (path for path in root.rglob("*.md") if not _HIDDEN.search(f"{path.relative_to(root).parent}/"))
    return sorted(found)


def broken_links(page: Path, root: Path = ROOT) -> list[str]:
    """Return "page:line: target: what is wrong" for each link that leads nowhere below the root; other sites are not asked."""
    text, found = _without_code(page.read_text()), []
    for link in _LINK.finditer(text):
        if not _ELSEWHERE.match(link[1]) and (wrong := _wrong(page, link[1], root)):
            found.append(f"{page.relative_to(root)}:{_line(text, link)}: {link[1]}: {wrong}")
    return found


def machine_paths(page: Path, root: Path = ROOT) -> list[str]:
    """Return "page:line: path" for each path in a page that exists on one machine only, such as one below a home folder."""
    text = page.read_text()
    return [f"{page.relative_to(root)}:{_line(text, found)}: {found[0]}" for found in _MACHINE.finditer(text)]


def too_large(page: Path, most_kb: float) -> str | None:
    """Return what is wrong where a page is larger than so many KB (1 KB = 1024 bytes), None where it is not."""
    size = page.stat().st_size / 1024
    return f"{page.name} has {size:.1f} KB, and {most_kb:g} are allowed" if size > most_kb else None


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page as GitHub makes them: one a heading, a number after those that repeat."""
    found: dict[str, int] = {}
    for heading in _HEADING.findall(_CODE.sub("", page.read_text())):
        name = slug(heading)
        found[name] = found.get(name, -1) + 1
        if found[name]:
            found[f"{name}-{found[name]}"] = 0
    return {*found, *_ANCHOR.findall(page.read_text())}


def slug(heading: str) -> str:
    """Return a heading's anchor: lower case, hyphens for spaces, punctuation dropped, of a link only its text."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def _wrong(page: Path, target: str, root: Path) -> str | None:
    name, _, anchor = target.partition("#")
    path = (page.parent / name).resolve() if name else page
    if not path.exists():
        return "there is no such file"
    if not path.is_relative_to(root):
        return "leads out of the repository"
    if anchor and path.suffix == ".md" and anchor not in anchors(path):
        return f"{path.relative_to(root)} has no heading with this anchor"
    return None


def _line(text: str, found: re.Match[str]) -> int:
    return text.count("\n", 0, found.start()) + 1


def _without_code(text: str) -> str:
    """The page with its code blanked out, so that line numbers stay."""
    for pattern in (_CODE, _INLINE_CODE):
        text = pattern.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    return text
