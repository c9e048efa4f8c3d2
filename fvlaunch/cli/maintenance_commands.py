"""Owns the command line of what is done around runs: comparing, checking, cleaning up, looking at a cluster.

Must not do what they ask for: each calls one function in commands. Must import nothing heavy at the top.
"""

from __future__ import annotations

from typing import Annotated

import typer

from .options import (
    FEW_SBATCH_OPTIONS,
    NO_SBATCH,
    AsJson,
    ClusterName,
    Ranks,
    RunName,
    RunNames,
    RunsDir,
    Sbatch,
    Sets,
    with_sbatch_options,
)


def register(app: typer.Typer) -> None:
    """Add the commands, in the order in which --help lists them."""
    for function in (fork, verify, prune, diff, doctor, rehearse, schema, completion):
        app.command()(function)


@with_sbatch_options(*FEW_SBATCH_OPTIONS)
def fork(
    run: RunName,
    step: Annotated[int, typer.Option("--step", help="Checkpoint to start from.")],
    name: Annotated[str, typer.Option("--name", metavar="RUN", help="Name of the new run.")],
    cluster: ClusterName = None,
    ranks: Ranks = None,
    sets: Sets = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until the run is over.")] = False,
    no_snapshot: Annotated[bool, typer.Option("--no-snapshot", help="Run the installed code, not a copy of it.")] = False,
    json_: AsJson = False,
    runs_dir: RunsDir = None,
    sbatch: Sbatch = NO_SBATCH,
) -> None:
    """A new run from a checkpoint of another; unlike resume it may change what makes a run what it is."""
    from ..commands import submit as submit_command

    code = submit_command.fork(
        run, step, name, cluster, sets or [], ranks, dict(sbatch), wait=wait, take_snapshot=not no_snapshot, json_=json_, runs_dir=runs_dir
    )
    raise typer.Exit(code)


def verify(
    run: RunName,
    step: Annotated[int | None, typer.Option("--step", help="One checkpoint; default: all.")] = None,
    json_: AsJson = False,
    runs_dir: RunsDir = None,
) -> None:
    """Read every byte of a run's checkpoints against their manifests, as after a copy. 1 where something is wrong."""
    from ..commands import checkpoints as checkpoints_command
    from ..commands import selection

    raise typer.Exit(checkpoints_command.verify(selection.find(run, runs_dir), step=step, json_=json_))


def prune(
    runs: RunNames,
    keep_last: Annotated[int, typer.Option("--keep-last", min=1, help="The newest so many stay.")],
    keep_every: Annotated[int | None, typer.Option("--keep-every", min=1, metavar="STEPS", help="Multiples of this stay too.")] = None,
    bad: Annotated[bool, typer.Option("--bad", help="Damaged ones, *.bad, too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    json_: AsJson = False,
    runs_dir: RunsDir = None,
) -> None:
    """Delete old checkpoints of a run that is not running; never the newest one that verifies."""
    from ..commands import checkpoints as checkpoints_command
    from ..commands import selection

    found = selection.find_several(runs, runs_dir)
    raise typer.Exit(checkpoints_command.prune(found, keep_last=keep_last, keep_every=keep_every, bad=bad, look=dry_run, json_=json_))


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A run, a run.yaml, or a recipe.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    cluster: ClusterName = None,
    json_: AsJson = False,
    runs_dir: RunsDir = None,
) -> None:
    """Every key that two runs or recipes do not agree in; of runs also commit, versions, models and data."""
    from ..commands import diff as diff_command

    diff_command.diff([a, b], cluster, json_=json_, runs_dir=runs_dir)


def doctor(
    cluster: ClusterName = None,
    node: Annotated[bool, typer.Option("--node/--no-node", help="Look at a node too, by a job of seconds.")] = True,
    wait_s: Annotated[float, typer.Option("--wait-s", metavar="SECONDS", help="How long that job may wait for its start.")] = 60,
    json_: AsJson = False,
) -> None:
    """Read a cluster's real configuration and judge it: OK, WARN or FAIL, each with its cure. 1 where something is FAIL."""
    from ..commands import doctor as examining

    raise typer.Exit(examining.doctor(cluster, json_=json_, node=node, wait_s=wait_s))


@with_sbatch_options(*FEW_SBATCH_OPTIONS)
def rehearse(
    cluster: ClusterName = None,
    preempt_with: Annotated[
        str | None,
        typer.Option("--preempt-with", metavar="PARTITION", help="Preempt it by a job there; default: scontrol requeue."),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=10, help="Of the tiny training.")] = 60,
    ranks: Ranks = None,
    sets: Sets = None,
    sbatch: Sbatch = NO_SBATCH,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the two runs; they are kept anyway where something is wrong.")] = False,
    json_: AsJson = False,
    runs_dir: RunsDir = None,
) -> None:
    """A drill: a tiny run is really interrupted, and its losses must be, bit by bit, those of an uninterrupted one."""
    from ..commands import rehearse as drill

    request = drill.Drill(cluster, steps, ranks, sets or [], dict(sbatch), preempt_with, keep, runs_dir)
    raise typer.Exit(drill.rehearse(request, json_=json_))


def schema(
    what: Annotated[str, typer.Argument(metavar="KIND", help="recipe, cluster or pipeline.")],
    install: Annotated[bool, typer.Option("--install", help="Put them all where your own files' first line looks.")] = False,
) -> None:
    """JSON Schema of the files that people write, for completion and checks in editors."""
    from ..commands import editor_schemas

    editor_schemas.schema(what, install=install)


def completion(shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]) -> None:
    """A script that lets the shell complete commands, recipes, clusters and runs: eval "$(fvlaunch completion bash)"."""
    from . import completion as completing

    completing.script(shell)
