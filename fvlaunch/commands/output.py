"""Owns how commands print: tables, resolved files with origins, JSON. Data to stdout; must not compute what it prints."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from ..errors import EXIT_USER, FvlaunchError, counted, render
from ..runs.attempts import Attempt
from ..status.goodput import AttemptCost, total
from ..status.types import RunStatus, entries_text, role_of

One = TypeVar("One")


def out(text: str) -> None:
    """Write a line of data to stdout."""
    sys.stdout.write(text + "\n")


def out_now(text: str) -> None:
    """Write a line of data that somebody waits for: a pipe must not hold it back."""
    out(text)
    sys.stdout.flush()


def say(text: str) -> None:
    """Write a line for the person to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def each(chosen: Sequence[One], act: Callable[[One], int]) -> int:
    """Do something to each of several, and tell what went wrong with one after trying the others too; return the exit code.

    Of a single one an error is raised as always.
    """
    if len(chosen) == 1:
        return act(chosen[0])
    codes = []
    for one in chosen:
        try:
            codes.append(act(one))
        except FvlaunchError as error:
            say(render(error))
            codes.append(error.exit_code)
    failed = {code for code in codes if code}
    return failed.pop() if len(failed) == 1 else EXIT_USER if failed else 0


def as_json(value: Any) -> None:
    out(json.dumps(value, indent=2, default=str))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns as wide as their widest value; no colour, so that it can be piped."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        out("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def statuses(found: Sequence[RunStatus]) -> None:
    rows = []
    for s in found:
        loss = f"{s.loss:.4f}" if s.loss is not None else ""
        pace = f"{s.step_s:.3g}" if s.step_s else ""
        eta = duration(s.eta_s) if s.eta_s is not None else ""
        state = s.state + (f"? (last known {duration(s.stale_s)} ago)" if s.stale_s is not None else "")
        saved = str(s.last_checkpoint_step or "")
        steps = f"{s.step}/{s.max_steps}" if s.state != "broken" else ""
        rows.append([s.run, state, steps, loss, pace, eta, str(s.attempts), saved, s.job_id or "", s.cluster])
    table(["RUN", "STATE", "STEP", "LOSS", "S/STEP", "ETA", "ATTEMPTS", "SAVED", "JOB", "CLUSTER"], rows)


def one_status(s: RunStatus) -> None:
    """Print all that is known of a single run."""
    statuses([s])
    out("")
    if s.reason:
        out(f"{s.state}: {s.reason}")
    if s.losses:
        out(f"losses:    {', '.join(f'{role_of(name)} {value:.4f}' for name, value in s.losses.items())}")
    if s.entries is not None:
        out(f"entries:   {entries_text(s.entries)}")
    if s.allocation_left_s is not None:
        out(f"time:      {_time_left(s)}")
    out(f"directory: {s.path}")
    if s.updated_at:
        out(f"updated:   {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(s.updated_at))}")


def _time_left(s: RunStatus) -> str:
    """Return the time to the run's end beside that to the allocation's end: whether it takes another job is seen at once."""
    left = duration(s.allocation_left_s or 0)
    if s.eta_s is None:
        return f"the allocation ends in {left}"
    more = s.eta_s - (s.allocation_left_s or 0)
    rest = f"; about {duration(more)} of it in another one" if more > 0 else ""
    return f"{duration(s.eta_s)} to go, the allocation ends in {left}{rest}"


def one_pipeline(whole: RunStatus, stages: Sequence[RunStatus]) -> None:
    """Print a pipeline: a line for the whole, one for each stage, and why those that do not run do not."""
    statuses([whole, *stages])
    reasons([whole, *stages])
    out(f"directory: {whole.path}")
    out(f"updated:   {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(whole.updated_at))}")


def reasons(shown: Sequence[RunStatus]) -> None:
    """Print an empty line, then one for each status that has a reason, and for each that tells of entries."""
    lines = [f"{s.run}: {s.state}: {s.reason}" for s in shown if s.reason]
    lines += [f"{s.run}: {entries_text(s.entries)}" for s in shown if s.entries is not None]
    for line in ["", *lines] if shown else ():
        out(line)


def attempts_table(attempts: Sequence[Attempt], costs: Sequence[AttemptCost]) -> None:
    """Print each attempt in a line, and what all attempts together cost and brought."""
    rows = [_attempt_row(a, cost) for a, cost in zip(attempts, costs, strict=True)]
    table(["ATTEMPT", "ENDED BY", "STEPS", "TOOK", "GPU-H", "USEFUL", "JOB", "NODES", "FIRST FAILURE"], rows)
    if attempts:
        whole = total(costs)
        useful = "" if whole.useful is None else f", {whole.useful:.0%} of it in the {counted(whole.steps_kept or 0, 'step')} kept"
        out(f"{counted(len(attempts), 'attempt')}, {whole.gpu_hours:.3g} GPU-hours{useful}")


def _attempt_row(a: Attempt, cost: AttemptCost) -> list[str]:
    steps = f"{a.step_from or 0}-{a.step_to if a.step_to is not None else ''}"
    why = a.failure.explain().splitlines()[0] if a.failure else ""
    if a.excluded:
        why += f"; next without {','.join(a.excluded)}"
    useful = "" if cost.useful is None else f"{cost.useful:.0%}"
    spans = [duration(cost.seconds), f"{cost.gpu_hours:.3g}", useful]
    return [str(a.number), a.cause.value.replace("_", " "), steps, *spans, a.job_id, _nodes(a.nodes), why]


def _nodes(nodes: Sequence[str]) -> str:
    return ",".join(nodes) if len(nodes) <= 4 else f"{nodes[0]},... ({len(nodes)} nodes)"


def origins(values: Mapping[tuple[Any, ...], Any], where: Mapping[tuple[Any, ...], str]) -> None:
    """Print every leaf of a resolved configuration with where it came from."""
    lines = [(".".join(str(part) for part in path), json.dumps(value), where.get(path, "")) for path, value in values.items()]
    width = min(max((len(f"{key}: {value}") for key, value, _ in lines), default=0), 70)
    for key, value, origin in lines:
        out(f"{key + ': ' + value:<{width}}  # {origin}")


def leaves(data: Any, path: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    if isinstance(data, dict) and data:
        return {p: v for key, item in data.items() for p, v in leaves(item, (*path, key)).items()}
    return {path: data}


def duration(seconds: float) -> str:
    """Return seconds as text: 90 as "1m30s", 7300 as "2h01m"."""
    whole = max(0, int(seconds))  # clocks of two machines differ
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    days, rest = divmod(whole, 86400)
    return (f"{days}d" if days else "") + f"{rest // 3600}h{rest % 3600 // 60:02d}m"
