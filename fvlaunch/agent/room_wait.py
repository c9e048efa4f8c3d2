"""Owns waiting for what must be on disk before something relies on it: the run's new owner, an attempt's number. Must not decide what
follows: whoever waits says what may end the waiting.

An attempt that nobody could tell from the one before it must not begin, so a full disk makes it wait, for a limited time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ..files import in_words
from ..runs.directory import Run
from . import own_output
from .restart_policy import Action, Decision

RETRY_S = 1.0


def when_there_is_room(
    write: Callable[[], None], run: Run, what: str, limit_s: float, interruption: Callable[[str], Decision | None]
) -> Decision | None:
    """Write, as soon as it can be done, and return None; else what ended the waiting.

    `interruption` gets the reason of the waiting and is asked again and again; after `limit_s` seconds the run has failed.
    """
    since, why = time.monotonic(), ""
    while True:
        try:
            write()
        except OSError as error:
            first, why = not why, in_words(error)
            if first:
                own_output.say(
                    f"{what} cannot begin: {why}. It waits for that to change, {limit_s / 60:.3g} minutes at most (df {run.path})"
                )
        else:
            if why:
                own_output.say(f"{what} begins after {time.monotonic() - since:.0f} s of waiting: {why}")
            return None
        if (decision := interruption(why)) is not None:
            return decision
        if time.monotonic() - since >= limit_s:
            return Decision(Action.END, "failed", _gave_up(run, what, limit_s, why))
        time.sleep(RETRY_S)


def _gave_up(run: Run, what: str, limit_s: float, why: str) -> str:
    words = f"{what} could not begin for {limit_s / 60:.3g} minutes (limits.phase_s: {limit_s:g}): {why}"
    return f"{words}; make room there (df {run.path}), then fvlaunch resume {run.name}"
