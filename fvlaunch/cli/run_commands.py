"""Owns the command lines that make, watch and end runs. Must not do what they ask for: each calls one function in commands."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import UsageError
from . import completion
from .options import NO_SBATCH, AsJson, ClusterName, Ranks, RunName, RunNames, RunsDir, Sbatch, Sets, with_sbatch_options


def register(app: typer.Typer) -> None:
    """Add the commands, in the order in which --help lists them."""
    more = {"allow_extra_args": True}  # sbatch's own options, after `--`
    app.command(context_settings=more)(submit)
    for function in (status, wait, attach, logs, stop, cancel):
        app.command()(function)
    app.command(context_settings=more)(resume)


@with_sbatch_options()
def submit(
    ctx: typer.Context,
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|PIPELINE",
            help="A recipe's or a pipeline's name or file, or a run's run.yaml.",
            autocompletion=completion.recipes,
        ),
    ],
    cluster: ClusterName = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a recipe's key, e.g. train.max_steps=200; of a pipeline STAGE.KEY=VALUE."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="RUN", help="Name of the run; default: recipe and time.")] = None,
    ranks: Ranks = None,
    nodes: Annotated[int | None, typer.Option("--nodes", help="Full nodes instead of ranks.")] = None,
    runs_dir: RunsDir = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the recipe, the batch script and the memory; do nothing.")] = False,
    traced: Annotated[
        bool, typer.Option("--traced", help="With --dry-run: simulate a step's memory, too, where FVLAUNCH_GPU_SIM says by what.")
    ] = False,
    prepare: Annotated[bool, typer.Option("--prepare", help="Make all but the submission, and print its sbatch line.")] = False,
    test_only: Annotated[
        bool, typer.Option("--test-only", help="Ask Slurm whether and when it would start; --cluster A,B and -p A,B: each of them.")
    ] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="3 steps, a save, a validation, a resume of it, and wait: does it work?")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until the run is over. Ctrl-C detaches.")] = False,
    no_snapshot: Annotated[bool, typer.Option("--no-snapshot", help="Run the installed code, not a copy of it.")] = False,
    json_: AsJson = False,
    sbatch: Sbatch = NO_SBATCH,
) -> None:
    """Make a run of a recipe, or of each stage of a pipeline, and hand the jobs to the cluster.

    Other sbatch options follow `--`, as in -- --switches=1.
    """
    from ..commands import submit as submit_command

    sbatch = submit_command.with_extra_sbatch(sbatch, ctx.args)
    request = submit_command.SubmitRequest(recipe, cluster, sets or [], name, ranks, nodes, runs_dir, sbatch)
    if sum((dry_run, prepare, test_only, smoke)) > 1:
        raise UsageError("--dry-run, --prepare, --test-only and --smoke exclude each other")
    if traced and not dry_run:
        raise UsageError("--traced is of --dry-run", hint="fvlaunch submit RECIPE --dry-run --traced")
    if dry_run:
        submit_command.dry_run(request, traced=traced, json_=json_)
    elif test_only:
        raise typer.Exit(submit_command.test_only(request, json_=json_))
    elif smoke:
        raise typer.Exit(submit_command.smoke(request, take_snapshot=not no_snapshot, json_=json_))
    elif prepare:
        submit_command.prepare(request, take_snapshot=not no_snapshot, json_=json_)
    else:
        raise typer.Exit(submit_command.submit(request, wait=wait, take_snapshot=not no_snapshot, json_=json_))


def status(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Default: those not over, and the newest.", autocompletion=completion.runs),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every run.")] = False,
    attempts: Annotated[bool, typer.Option("--attempts", help="Each attempt: cause, steps, nodes, GPU-hours, useful part.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again until all is over. Ctrl-C ends the watching.")] = False,
    json_: AsJson = False,
    runs_dir: RunsDir = None,
) -> None:
    """What runs are doing, from their records and one question to the scheduler."""
    from ..commands import status as status_command

    raise typer.Exit(status_command.status(runs or [], all_=all_, attempts=attempts, watch=watch, json_=json_, runs_dir=runs_dir))


def wait(run: RunName, json_: AsJson = False, runs_dir: RunsDir = None) -> None:
    """Wait until a run is over. 0: finished; 1: failed, stopped or cancelled; 130: detached by Ctrl-C."""
    from ..commands import waiting

    raise typer.Exit(waiting.wait(run, quiet=True, json_=json_, runs_dir=runs_dir))


def attach(run: RunName, runs_dir: RunsDir = None) -> None:
    """Show a run's live progress until it is over. Ctrl-C detaches; the run goes on."""
    from ..commands import waiting

    raise typer.Exit(waiting.wait(run, quiet=False, json_=False, runs_dir=runs_dir))


def logs(
    run: RunName,
    rank: Annotated[str, typer.Option("--rank", metavar="N|N-M|all", help="Whose; of several the lines are merged by time.")] = "0",
    attempt: Annotated[str | None, typer.Option("--attempt", metavar="N|all", help="Which attempt; default: the newest.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come, until the run is over.")] = False,
    grep: Annotated[str | None, typer.Option("--grep", metavar="RE", help="Only lines that match.")] = None,
    agent: Annotated[bool, typer.Option("--agent", help="What the job itself printed instead of a rank.")] = False,
    runs_dir: RunsDir = None,
) -> None:
    """A rank's log, or those of several merged by time."""
    from ..commands import logs as logs_command

    logs_command.logs(run, rank=rank, attempt=attempt, follow=follow, grep=grep, agent=agent, runs_dir=runs_dir)


def stop(runs: RunNames, runs_dir: RunsDir = None) -> None:
    """Save a checkpoint, then end the run; `resume` goes on from there."""
    from ..commands import stop as stop_command

    raise typer.Exit(stop_command.end(runs, "stop", runs_dir))


def cancel(runs: RunNames, runs_dir: RunsDir = None) -> None:
    """End a run now. It never comes back by itself."""
    from ..commands import stop as stop_command

    raise typer.Exit(stop_command.end(runs, "cancel", runs_dir))


@with_sbatch_options()
def resume(
    ctx: typer.Context,
    run: RunName,
    cluster: ClusterName = None,
    ranks: Ranks = None,
    sets: Sets = None,
    assume_dead: Annotated[
        str | None, typer.Option("--assume-dead", metavar="JOBID", help="Your word that this job is gone, where nobody can say.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until the run is over.")] = False,
    json_: AsJson = False,
    runs_dir: RunsDir = None,
    sbatch: Sbatch = NO_SBATCH,
) -> None:
    """Go on with a run that is over, from its newest checkpoint that verifies; with a pipeline from the stage that broke."""
    from ..commands import submit as submit_command

    sbatch = submit_command.with_extra_sbatch(sbatch, ctx.args)
    code = submit_command.resume(
        run, cluster, sets or [], ranks, sbatch, assume_dead=assume_dead, wait=wait, json_=json_, runs_dir=runs_dir
    )
    raise typer.Exit(code)
