"""Owns fetching models and data sets from the Hugging Face hub into its cache. The only module that goes to the network.

Must not import torch. A download that is cut short goes on with the files that are missing. Where there is no internet, the error says what
is missing and where to put it.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import hub_cache
from ..config.programs.download import Config, RepositoryConfig
from ..control import EXIT_FINISHED, EXIT_SAVED, Control
from ..errors import UserError, first_line
from ..files import system_errors

log = logging.getLogger(__name__)

_MIB = 2**20
_ABANDONED_S = 3600
"""Seconds after which a half-written file that nobody touched belongs to a process that is gone."""


@dataclass(frozen=True)
class _Listing:
    """A repository at a commit, and its files: blob name -> bytes."""

    kind: hub_cache.Kind
    repository: RepositoryConfig
    commit: str
    files: dict[str, int]

    @property
    def chosen(self) -> dict[str, Any]:
        patterns = {"allow_patterns": self.repository.allow_patterns, "ignore_patterns": self.repository.ignore_patterns}
        return {name: value for name, value in patterns.items() if value is not None}

    def bytes_here(self) -> int:
        """Return the bytes of its files that are here, half-written ones too; blobs are named by content, so no other revision's are
        counted."""
        sizes: dict[str, int] = {}
        for path in (hub_cache.storage(self.kind, self.repository.id) / "blobs").glob("*"):
            blob = path.name.split(".")[0]
            if blob in self.files:
                try:
                    sizes[blob] = max(sizes.get(blob, 0), path.stat().st_size)
                except FileNotFoundError:  # just renamed
                    continue
        return sum(sizes.values())


def run(config: Config, run_dir: Path, control: Control) -> int:
    """Download everything and return the exit code; rank 0 works, the others have nothing to do. The cache, not `run_dir`, holds the
    files."""
    if control.rank != 0:
        return EXIT_FINISHED
    control.progress("loading", 0)
    repositories: list[tuple[hub_cache.Kind, RepositoryConfig]] = [
        *(("model", model) for model in config.models),
        *(("dataset", dataset) for dataset in config.datasets),
    ]
    listings = _listed(repositories)
    total = sum(sum(listing.files.values()) for listing in listings)
    log.info("%d repositories, %d MiB, into %s", len(listings), total // _MIB, hub_cache.storage("model", "org/name").parent)
    done = 0
    for listing in listings:
        with _room(listing):
            fetched = _fetch(listing, done, total, control)
        if not fetched:
            return EXIT_SAVED
        done += sum(listing.files.values())
        log.info("%s %s at %s is complete", listing.kind, listing.repository.id, listing.commit)
    control.progress("downloading", total // _MIB, max_steps=total // _MIB)
    return EXIT_FINISHED


def _listed(repositories: list[tuple[hub_cache.Kind, RepositoryConfig]]) -> list[_Listing]:
    """Return what has to be fetched. Without internet: nothing where all is here, else one UserError that names all that is missing."""
    listings, missing = [], []
    for kind, repository in repositories:
        try:
            listings.append(_list_files(kind, repository))
        except _Unreachable as error:
            try:
                log.info("cannot reach the hub, but %s is here", hub_cache.snapshot(kind, repository.id, repository.revision))
            except hub_cache.NotHere as absent:
                missing.append(f"{absent} ({error})")
    if missing:
        raise UserError(
            "the Hugging Face hub cannot be reached, and not all is here: " + "; ".join(missing),
            "download where there is internet, such as the login node, with HF_HOME on a disk that both see; or copy the cache of a "
            "machine that has it",
        )
    return listings


class _Unreachable(Exception):
    """The network or the hub is not there."""


def _list_files(kind: hub_cache.Kind, repository: RepositoryConfig) -> _Listing:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils._paths import filter_repo_objects

    api, place = HfApi(), f"{kind} {repository.id}"
    try:
        commit = api.repo_info(repository.id, repo_type=kind, revision=repository.revision).sha
        assert commit is not None
        tree = [f for f in api.list_repo_tree(repository.id, recursive=True, revision=commit, repo_type=kind) if isinstance(f, RepoFile)]
    except GatedRepoError as error:
        raise UserError(f"the {place} asks you to accept its terms", "accept them on its page, and set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise UserError(f"the {place} has no revision {repository.revision}", "a commit, branch or tag of it") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"there is no {place} on the hub, or it is not yours to see", "check the id; private ones need HF_TOKEN") from error
    except Exception as error:  # the http library's own, which changes between versions, or an answer that says "later"
        raise _Unreachable(first_line(error)) from error
    kept = set(
        filter_repo_objects(
            [file.path for file in tree], allow_patterns=repository.allow_patterns, ignore_patterns=repository.ignore_patterns
        )
    )
    if not kept:
        raise UserError(f"the {place} has no files that are wanted", "check allow_patterns and ignore_patterns")
    files = {(file.lfs.sha256 if file.lfs is not None else file.blob_id): file.size for file in tree if file.path in kept}
    return _Listing(kind, repository, commit, files)


def _fetch(listing: _Listing, before: int, total: int, control: Control) -> bool:
    """Fetch one repository and return whether it is all here; False where a stop was requested: what is written stays."""
    hub_cache.note(listing.kind, listing.repository.id, listing.commit, listing.chosen)
    _clear_abandoned(hub_cache.storage(listing.kind, listing.repository.id))
    fetching = _Fetching(listing)
    fetching.start()
    while fetching.is_alive():
        control.progress("downloading", (before + listing.bytes_here()) // _MIB, max_steps=total // _MIB, what=listing.repository.id)
        if control.stop_requested:
            return False
        fetching.join(0.5)
    if fetching.failure is not None:
        raise fetching.failure
    return True


@contextmanager
def _room(listing: _Listing) -> Iterator[None]:
    """Tell of a cache that takes no more in one error."""
    storage = hub_cache.storage(listing.kind, listing.repository.id)
    try:
        with system_errors(storage):  # a part of the hub's client is in Rust
            yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        raise UserError(f"cannot write to {storage}: {error.strerror}", "HF_HOME must be on a disk with room") from None


class _Fetching(threading.Thread):
    """The download in a thread of its own, so that progress and a stop do not wait for a file of many gigabytes; the process may exit
    meanwhile."""

    def __init__(self, listing: _Listing) -> None:
        super().__init__(daemon=True)
        self._listing = listing
        self.failure: BaseException | None = None

    def run(self) -> None:
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
        listing = self._listing
        try:
            # by commit: a branch may move between two attempts
            snapshot_download(listing.repository.id, repo_type=listing.kind, revision=listing.commit, **listing.chosen)
            if listing.repository.revision != listing.commit:
                hub_cache.point(listing.kind, listing.repository.id, listing.repository.revision, listing.commit)
        except BaseException as error:  # raised where it is waited for
            self.failure = error


def _clear_abandoned(storage: Path) -> None:
    for path in (storage / "blobs").glob("*.incomplete"):
        try:
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                path.unlink()
        except FileNotFoundError:
            continue
