"""Owns clips with a file beside each that holds its caption: x.mp4 with x.txt, x.caption or x.json. Must not walk folders."""

from __future__ import annotations

import json
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.counting import counted
from . import columns as columns_
from . import text_files
from .columns import CAPTION_COLUMNS
from .entries import Columns, Entry, Rejected, stem, text

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts")
"""Suffixes of clips, in lower case."""
RARE_SUFFIXES = frozenset(
    {
        *(".264", ".265", ".266", ".3g2", ".3gp", ".3gpp", ".amv", ".apng", ".asf", ".av1", ".avc", ".avif", ".dav"),
        *(".divx", ".dv", ".evo", ".f4v", ".flc", ".fli", ".flv", ".gif", ".gxf", ".h261", ".h263", ".h264", ".h265"),
        *(".h266", ".hevc", ".ismv", ".ivf", ".ivr", ".lrv", ".m1v", ".m2p", ".m2t", ".m2ts", ".m2v", ".m4p", ".mj2"),
        *(".mjpeg", ".mjpg", ".mk3d", ".mod", ".mp4v", ".mpe", ".mpv", ".mts", ".mxf", ".nsv", ".nut", ".obu", ".ogg"),
        *(".ogm", ".ogv", ".ogx", ".qt", ".rm", ".rmvb", ".roq", ".swf", ".tod", ".tp", ".trp", ".ty", ".vc1"),
        *(".viv", ".vob", ".vro", ".vvc", ".webp", ".wmv", ".wtv", ".xvid", ".y4m"),
    }
)
"""Suffixes of clips that may as well be of something else, such as a preview of a clip: they count where a caption lies beside them, or
where no other clips are there."""
_TEXTS = (".txt", ".caption", ".captions", ".cap", ".text")
_SUFFIXES = (*_TEXTS, ".json")
"""Suffixes of captions, in lower case, the first that is there is read."""


@dataclass
class Pairs:
    """The clips of a folder with the files that hold their captions, best first; `lonely` are captions without a clip."""

    clips: dict[Path, list[Path]]
    lonely: list[Path] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)
    """Files that may be clips, as `RARE_SUFFIXES` says, and have no caption."""

    @property
    def captioned(self) -> list[Path]:
        """Return the clips that have a file beside them."""
        return [clip for clip, captions in self.clips.items() if captions]

    def has_texts(self) -> bool:
        """Return whether a clip has a caption in a text file: one in JSON may be of something else."""
        return any(caption.suffix.lower() != ".json" for captions in self.clips.values() for caption in captions)


def is_clip(path: Path) -> bool:
    """Return whether a suffix, in any case, is one of a video's."""
    return path.suffix.lower() in VIDEO_SUFFIXES or path.suffix.lower() in RARE_SUFFIXES


def pair(files: Sequence[Path]) -> Pairs:
    """Return which of the files are clips, and which are their captions."""
    captions = _Captions([path for path in files if path.suffix.lower() in _SUFFIXES])
    plain = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    taken = {path.with_suffix("") for path in plain}
    rare = [path for path in files if path.suffix.lower() in RARE_SUFFIXES and path.with_suffix("") not in taken]
    own = [path for path in rare if captions.of(path)]
    counted = own or ([] if plain else rare)
    clips = {path: captions.of(path) for path in sorted([*plain, *counted], key=lambda path: path.parts)}
    used = {caption for found in clips.values() for caption in found}
    lonely = [path for path in captions.files if path not in used and path.suffix.lower() in _TEXTS] if clips else []
    return Pairs(clips, sorted(lonely), [path for path in rare if path not in clips])


class _Captions:
    """Files that may hold captions, by the path of the clip that they lie beside, without its suffix or with it."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self._by_stem: dict[Path, list[Path]] = defaultdict(list)
        self._by_spelling: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(files, key=lambda path: (_SUFFIXES.index(path.suffix.lower()), path.suffix.lower() != path.suffix)):
            self._by_stem[path.with_suffix("")].append(path)
            self._by_spelling[_spelling(path.with_suffix(""))].append(path)

    def of(self, clip: Path) -> list[Path]:
        stems = (clip.with_suffix(""), clip)
        exact = [caption for place in stems for caption in self._by_stem.get(place, ())]
        return exact or [caption for place in stems for caption in self._by_spelling.get(_spelling(place), ())]


def entries(folder: Path, pairs: Pairs, columns: Columns) -> Iterator[Entry]:
    """Yield an entry for each clip, then one for each caption that has none."""
    for clip, captions in pairs.clips.items():
        name = clip.relative_to(folder).as_posix()
        caption, problem = _read(captions[0], columns) if captions else ("", None)
        yield Entry(stem(name), name, caption, clip, problem)
    for lonely in pairs.lonely:
        name = lonely.relative_to(folder).as_posix()
        yield Entry(name, name, "", problem=Rejected("missing", "there is no video of this name"))


def remarks(pairs: Pairs) -> list[str]:
    """Return what of the pairs may not be meant, a line each."""
    told = []
    several = [captions for captions in pairs.clips.values() if len(captions) > 1]
    if several:
        first = several[0]
        more = f"; so for {len(several)} clips" if len(several) > 1 else ""
        told.append(f"{first[0].name} is read, and {first[1].name} beside it is not{more}")
    if pairs.left_out:
        told.append(f"{counted(len(pairs.left_out), 'file')} without a caption not taken for clips, such as {pairs.left_out[0].name}")
    return told


def _read(path: Path, columns: Columns) -> tuple[str, Rejected | None]:
    words, problem = text_files.read_caption(path)
    if problem is not None or path.suffix.lower() != ".json":
        return words, problem
    try:
        value: Any = json.loads(words)
    except (ValueError, RecursionError):
        return "", Rejected("bad_caption", f"{path.name} is not JSON")
    if not isinstance(value, dict):
        return text(value), None
    found = text(columns_.value(value, columns.caption, CAPTION_COLUMNS))
    keys = ", ".join(map(str, value)) or "none"
    return found, None if found else Rejected("no_caption", f"{path.name} has no caption: its keys are {keys}")


def _spelling(path: Path) -> str:
    """Return a path as all of its spellings are: a clip's suffix in lower case (x.MP4.txt beside x.mp4), letters with accents composed."""
    return unicodedata.normalize("NFC", str(path.with_suffix(path.suffix.lower()) if is_clip(path) else path))
