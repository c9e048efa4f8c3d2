"""Owns `fvlaunch show RECIPE --ettr`: what a run would get out of 8 to 1,024 nodes, and how often it should save.

Must not change anything, and must not compute the answer: planning/effective_training.py does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ..config.compose import compose
from ..errors import FvlaunchError
from ..planning import planner, recovery_figures
from ..planning.checkpoint_interval import days
from ..planning.effective_training import DAY_S, NEVER, Conditions, TimeShares, best_interval_s, daly_s, simulate, young_s
from ..planning.recovery_figures import Figures
from ..schedulers.registry import scheduler
from . import output as printing

NODES = (8, 16, 32, 64, 128, 256, 512, 1024)
_BAR = 40
_PARTS = ("saving", "repeated", "down")
_MEANINGS = ("standing still to save", "lost steps made again", "failure not seen yet, queue, loading")
_COLOURS = ("cyan", "yellow", "red")
_MARKS = {True: "█▓░", False: "#=."}
_RATES = {"failures_per_node_day": "failures of a node a day", "preemptions_per_day": "preemptions of the job a day"}
_SPANS = {
    "detection_s": "until a failure is seen",
    "requeue_wait_s": "in the queue again",
    "start_s": "from the job's start to its first new step",
    "stall_s": "training stands still for a save",
    "save_s": "until a checkpoint is published",
    "notice_s": "notice of a preemption",
    "usable_s": "of an allocation before its last save",
}


@dataclass(frozen=True)
class Row:
    """What a number of nodes gives; the intervals are None where nothing is ever lost, the best one also where no step is kept."""

    nodes: int
    mean_time_to_failure_s: float | None
    best_minutes: float | None
    young_minutes: float | None
    daly_minutes: float | None
    shares: TimeShares
    """With the best interval; where there is none, without saves."""
    as_written: float | None
    """The ratio with the recipe's own every_minutes; None where it has none."""


def show(recipe: str, cluster: str | None, sets: list[str], *, json_: bool) -> None:
    """Print the figures that the answer rests on, each with its origin, and a row for each number of nodes."""
    composed = compose(recipe, planner.named_cluster(recipe, cluster), sets=sets)
    if composed.recipe.train is None:
        raise FvlaunchError(f"--ettr is about training, and {composed.recipe_name} is a {composed.recipe.program} recipe")
    if scheduler(composed.cluster.executor).runs_here:
        what = f"--ettr is about a cluster of nodes, and {composed.cluster_name} is one machine"
        raise FvlaunchError(what, hint="--cluster NAME (fvlaunch list clusters)")
    plan = planner.plan_of(composed, name=None, ranks=None, nodes=None, sbatch={}, runs_dir=None)
    figures = recovery_figures.gather(composed, plan)
    written = composed.recipe.train.checkpoint.every_minutes
    minutes = written if isinstance(written, float) else None
    conditions = recovery_figures.conditions(figures)
    rows = [row(conditions, nodes, minutes) for nodes in NODES]
    if json_:
        values = [{**asdict(one), "effective_training_time_ratio": one.shares.useful} for one in rows]
        return printing.as_json({"figures": recovery_figures.as_json(figures), "every_minutes": minutes, "nodes": values})
    _print_figures(figures)
    printing.out("")
    return _print_chart(rows, minutes) if sys.stdout.isatty() else printing.table(_head(minutes), (_cells(one) for one in rows))


def row(conditions: Conditions, nodes: int, minutes: float | None) -> Row:
    """Work out one number of nodes; `minutes`: the recipe's own interval."""
    losses, best_s = conditions.losses_per_s(nodes), best_interval_s(conditions, nodes)
    mean_s = 1 / losses if losses >= NEVER else None
    shares = simulate(conditions, nodes, 1e3 * DAY_S if best_s is None else best_s)
    return Row(
        nodes,
        mean_s,
        None if best_s is None or shares.useful <= 0 else best_s / 60,
        None if mean_s is None else young_s(conditions.stall_s, mean_s) / 60,
        None if mean_s is None else daly_s(conditions.stall_s, mean_s) / 60,
        shares,
        None if minutes is None else simulate(conditions, nodes, 60 * minutes).useful,
    )


def _print_figures(figures: Figures) -> None:
    texts = {name: f"{figures[name].value:g}" for name in _RATES}
    texts |= {name: "-" if (value := figures[name].value) is None else _span(value) for name in _SPANS}
    told = _RATES | _SPANS
    printing.table(["FIGURE", "VALUE", "FROM"], [[told[name], text, figures[name].origin] for name, text in texts.items()])


def _span(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else printing.duration(seconds)


def _head(minutes: float | None) -> list[str]:
    own = [] if minutes is None else [f"AT {minutes:g} MIN"]
    return ["NODES", "FAIL EVERY", "SAVE EVERY", "DALY SAYS", "ETTR", *own, "SAVING", "REPEATED", "DOWN"]


def _cells(one: Row) -> list[str]:
    mean = "-" if one.mean_time_to_failure_s is None else days(one.mean_time_to_failure_s / DAY_S)
    intervals = [_minutes(value) for value in (one.best_minutes, one.daly_minutes)]
    own = [] if one.as_written is None else [f"{one.as_written:.1%}"]
    shares = [f"{share:.1%}" for share in (one.shares.saving, one.shares.repeated, one.shares.down)]
    return [str(one.nodes), mean, *intervals, f"{one.shares.useful:.1%}", *own, *shares]


def _minutes(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} min" if value >= 10 else f"{value:.1f} min"


def _print_chart(rows: Sequence[Row], minutes: float | None) -> None:
    """Print the rows with a bar each, of where the time goes that the ratio lacks; the longest fills its column."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout)
    marks = _MARKS[console.encoding.lower().startswith("utf")]
    shown = Table(box=None, pad_edge=False, header_style="bold")
    head = _head(minutes)[:-3]
    for name in head:
        shown.add_column(name, justify="right", no_wrap=True)
    most = max(1 - one.shares.useful for one in rows) or 1.0
    shown.add_column("WHERE THE REST GOES", no_wrap=True)
    for one in rows:
        widths = _widths([getattr(one.shares, part) / most for part in _PARTS])
        bar = Text.assemble(*((mark * width, colour) for mark, width, colour in zip(marks, widths, _COLOURS, strict=True)))
        shown.add_row(*_cells(one)[: len(head)], bar)
    console.print(shown)
    legend = zip(marks, _COLOURS, _MEANINGS, strict=True)
    console.print(Text.assemble(*(part for mark, colour, told in legend for part in ((mark, colour), f" {told}   "))))


def _widths(shares: Sequence[float]) -> list[int]:
    """Return how many of a bar's characters each share of it gets; their sum is rounded, too."""
    ends = [round(_BAR * sum(shares[: count + 1])) for count in range(len(shares))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]
