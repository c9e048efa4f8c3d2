"""Owns what is said of a run whose job is over though no agent of it said how: by the scheduler's word for the end, by what the job left
behind, and by whether an attempt was ever begun. Pure.

A start that never was has no checkpoint to go on from, and what cannot change by itself is to be mended first: the hint says so.
"""

from __future__ import annotations

from ..runs.directory import Intent, Record
from ..runs.last_words import LastWords
from ..schedulers.base import JobObservation

_OTHERS = ("NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY", "DEADLINE", "REVOKED")


def gone(
    record: Record, seen: JobObservation, intent: Intent | None, words: LastWords, checkpoint: int | None, *, began: bool
) -> tuple[str, str]:
    """Return (state, reason). `began`: an attempt of this submission was begun; `checkpoint`: the step of the run's newest, if any."""
    again = resume_hint(record, checkpoint, began=began)
    word = seen.ended.split(" ")[0]
    if word == "CANCELLED":
        by = seen.ended.partition(" ")[2]
        return "cancelled", "cancelled through the scheduler" + (f" ({by})" if by else "") + (
            "" if began else " before an attempt was begun"
        )
    if word == "TIMEOUT":
        before = "it could be requeued" if began else "an attempt was begun"
        return "stopped", f"the time limit ended it before {before}; {again}"
    if word == "PREEMPTED":
        return "stopped", f"it was preempted, and ended by that instead of being requeued; {again}"
    if word in _OTHERS:
        return "failed", _without_a_word(word, seen, words, again)
    if words.given_up and word in ("FAILED", "COMPLETED", ""):
        resumed = again.replace(record.name, f"{record.name} --cluster {record.cluster}", 1)  # as the profile is now, not as it was
        return "failed", _with_lines(f"{words.given_up}; mend that, then {resumed}", words)
    if word == "FAILED":
        return "failed", _without_a_word(word, seen, words, again)
    if word == "COMPLETED" and not began:
        return "failed", _with_lines(f"its job ended with exit code 0 before an attempt was begun{_why(words)}; {again}", words)
    if word == "COMPLETED":  # a job exits 0 only when its run is finished; the record is late
        return "finished", ""
    if intent and intent.want != "run" and intent.generation == record.generation:  # its agent had not begun to listen
        return ("stopped" if intent.want == "stop" else "cancelled"), f"fvlaunch {intent.want}; its job ended at once; {again}"
    return "lost", _with_lines(f"its job is gone without a word{_why(words)}; {again}", words)


def resume_hint(record: Record, checkpoint: int | None, *, began: bool) -> str:
    """Return what `fvlaunch resume` would do with a run: only where there is a checkpoint can it go on from one."""
    resume = f"fvlaunch resume {record.name}"
    if checkpoint is not None:
        return f"{resume} goes on from the last checkpoint (step {checkpoint})"
    return f"{resume} starts it again" if began else f"{resume} submits it again"


def _without_a_word(word: str, seen: JobObservation, words: LastWords, again: str) -> str:
    said = f" ({seen.words})" if seen.words else ""
    never = "" if words.printed else "; it printed nothing"
    return _with_lines(f"the job ended as {word} before its agent could say why{said}{_why(words)}{never}; {again}", words)


def _why(words: LastWords) -> str:
    return f": {words.why}" if words.why else ""


def _with_lines(reason: str, words: LastWords) -> str:
    """Put the end of what the job printed below the reason, where it says more than the reason does."""
    more = [line for line in words.lines if line.removeprefix("fvlaunch: ").removesuffix("; the job does not go on") not in reason]
    return "\n".join([reason, *(f"  {line}" for line in more)])
