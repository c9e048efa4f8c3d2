"""Owns the command line: one thin function a command that parses, calls one function and prints.

Must import nothing heavy at the top: --help and status never load torch, submitit or jinja2.
"""

from __future__ import annotations

import copy
import gc
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from . import __version__, cli_upkeep, completing
from .cli_options import (
    Account,
    AsJson,
    Begin,
    ClusterName,
    Constraint,
    Dependency,
    Exclude,
    Memory,
    Nodelist,
    Partition,
    Qos,
    Ranks,
    Reservation,
    RunName,
    RunsDir,
    Sets,
    Time,
)
from .errors import EXIT_UNEXPECTED, EXIT_USER, FvlaunchError, UsageError, printable, render

app = typer.Typer(
    name="fvlaunch",
    help="Train and distil video diffusion models on Slurm clusters or here; a killed run finishes as if nothing had happened.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback(invoke_without_command=True)
def version(show_version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version.")] = False) -> None:
    if show_version:
        print(f"fvlaunch {__version__}")  # noqa: T201
        raise typer.Exit


@app.command(context_settings={"allow_extra_args": True})
def submit(
    ctx: typer.Context,
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|PIPELINE",
            help="A recipe's or a pipeline's name or file, or a run's run.yaml.",
            autocompletion=completing.recipes,
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
    prepare: Annotated[bool, typer.Option("--prepare", help="Make all but the submission, and print its sbatch line.")] = False,
    test_only: Annotated[
        bool, typer.Option("--test-only", help="Ask Slurm whether and when it would start; --cluster A,B and -p A,B: each of them.")
    ] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="3 steps, a save, a validation, a resume of it, and wait: does it work?")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until the run is over. Ctrl-C detaches.")] = False,
    no_snapshot: Annotated[bool, typer.Option("--no-snapshot", help="Run the installed code, not a copy of it.")] = False,
    json_: AsJson = False,
    partition: Partition = None,
    time: Time = None,
    account: Account = None,
    qos: Qos = None,
    exclude: Exclude = None,
    nodelist: Nodelist = None,
    constraint: Constraint = None,
    dependency: Dependency = None,
    reservation: Reservation = None,
    begin: Begin = None,
    mem: Memory = None,
) -> None:
    """Make a run of a recipe, or of each stage of a pipeline, and hand the jobs to the cluster.

    Other sbatch options follow `--`, as in -- --switches=1.
    """
    from . import commands

    sbatch = commands.sbatch_of(locals(), ctx.args)
    request = commands.Request(recipe, cluster, sets or [], name, ranks, nodes, runs_dir, sbatch)
    if sum((dry_run, prepare, test_only, smoke)) > 1:
        raise UsageError("--dry-run, --prepare, --test-only and --smoke exclude each other")
    if dry_run:
        commands.dry_run(request, json_=json_)
    elif test_only:
        raise typer.Exit(commands.test_only(request, json_=json_))
    elif smoke:
        raise typer.Exit(commands.smoke(request, take_snapshot=not no_snapshot, json_=json_))
    elif prepare:
        commands.prepare(request, take_snapshot=not no_snapshot, json_=json_)
    else:
        raise typer.Exit(commands.submit(request, wait=wait, take_snapshot=not no_snapshot, json_=json_))


@app.command()
def status(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Default: those not over, and the newest.", autocompletion=completing.runs),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every run.")] = False,
    attempts: Annotated[bool, typer.Option("--attempts", help="Each attempt: cause, steps, nodes, GPU-hours, useful part.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again until all is over. Ctrl-C ends the watching.")] = False,
    json_: AsJson = False,
    runs_dir: RunsDir = None,
) -> None:
    """What runs are doing, from their records and one question to the scheduler."""
    from . import status_command

    raise typer.Exit(status_command.status(runs or [], all_=all_, attempts=attempts, watch=watch, json_=json_, runs_dir=runs_dir))


@app.command()
def wait(run: RunName, json_: AsJson = False, runs_dir: RunsDir = None) -> None:
    """Wait until a run is over. 0: finished; 1: failed, stopped or cancelled; 130: detached by Ctrl-C."""
    from . import commands

    raise typer.Exit(commands.wait(run, quiet=True, json_=json_, runs_dir=runs_dir))


@app.command()
def attach(run: RunName, runs_dir: RunsDir = None) -> None:
    """Show a run's live progress until it is over. Ctrl-C detaches; the run goes on."""
    from . import commands

    raise typer.Exit(commands.wait(run, quiet=False, json_=False, runs_dir=runs_dir))


@app.command()
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
    from . import commands

    commands.logs(run, rank=rank, attempt=attempt, follow=follow, grep=grep, agent=agent, runs_dir=runs_dir)


@app.command()
def stop(run: RunName, runs_dir: RunsDir = None) -> None:
    """Save a checkpoint, then end the run; `resume` goes on from there."""
    from . import commands

    commands.end(run, "stop", runs_dir)


@app.command()
def cancel(run: RunName, runs_dir: RunsDir = None) -> None:
    """End a run now. It never comes back by itself."""
    from . import commands

    commands.end(run, "cancel", runs_dir)


@app.command(context_settings={"allow_extra_args": True})
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
    partition: Partition = None,
    time: Time = None,
    account: Account = None,
    qos: Qos = None,
    exclude: Exclude = None,
    nodelist: Nodelist = None,
    constraint: Constraint = None,
    dependency: Dependency = None,
    reservation: Reservation = None,
    begin: Begin = None,
    mem: Memory = None,
) -> None:
    """Go on with a run that is over, from its newest checkpoint that verifies; with a pipeline from the stage that broke."""
    from . import commands

    sbatch = commands.sbatch_of(locals(), ctx.args)
    code = commands.resume(run, cluster, sets or [], ranks, sbatch, assume_dead=assume_dead, wait=wait, json_=json_, runs_dir=runs_dir)
    raise typer.Exit(code)


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(metavar="KIND", help="recipes, clusters, pipelines or runs.")],
    json_: AsJson = False,
    runs_dir: RunsDir = None,
) -> None:
    """What there is, and where each was found."""
    from . import commands

    raise typer.Exit(commands.list_(what, json_=json_, runs_dir=runs_dir))


@app.command()
def show(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe's name or file, or a run's run.yaml.", autocompletion=completing.recipes)
    ],
    cluster: ClusterName = None,
    sets: Sets = None,
    json_: AsJson = False,
) -> None:
    """A recipe on a cluster, resolved, with each value's origin."""
    from . import commands

    commands.show(recipe, cluster, sets or [], json_=json_)


Step = Annotated[int | None, typer.Option("--step", help="Checkpoint; default: the newest that verifies.")]
Weights = Annotated[str, typer.Option("--weights", metavar="live|ema", help="Trained weights or their moving average.")]
Role = Annotated[str, typer.Option("--role", help="Whose weights.")]
There = Annotated[str | None, typer.Option("--cluster", metavar="NAME", help="Do it there, on Slurm as a job; default: here.")]


@app.command()
def export(
    run: RunName,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder to make.")],
    step: Step = None,
    weights: Weights = "live",
    role: Role = "student",
    merge: Annotated[bool, typer.Option("--merge", help="LoRA: whole weights with the adapter in them.")] = False,
    lora_keys: Annotated[
        str, typer.Option("--lora-keys", metavar="diffusers|original", help="Names in an adapter's file; original: diffusion_model.*")
    ] = "diffusers",
    dtype: Annotated[str, typer.Option("--dtype", metavar="fp32|bf16", help="fp32 is bit by bit what was trained.")] = "fp32",
    max_shard_gb: Annotated[float, typer.Option("--max-shard-gb", help="Larger weights are written in several files.")] = 10,
    push_to_hub: Annotated[str | None, typer.Option("--push-to-hub", metavar="ORG/NAME", help="Then upload it, private.")] = None,
    cluster: There = None,
    runs_dir: RunsDir = None,
) -> None:
    """Write a run's weights as a folder that stock diffusers loads."""
    from . import results

    options: dict[str, results.Value] = {
        "to": to, "step": step, "weights": weights, "role": role, "merge": merge, "lora_keys": lora_keys, "dtype": dtype,
        "max_shard_gb": max_shard_gb, "push_to_hub": push_to_hub,
    }  # fmt: skip
    raise typer.Exit(results.export(run, options, cluster, runs_dir))


@app.command()
def sample(
    run: Annotated[str, typer.Argument(metavar="RUN|FOLDER", help="A run, or a folder that was exported or downloaded.")],
    prompt: Annotated[list[str] | None, typer.Option("--prompt", metavar="TEXT", help="May be given several times.")] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", metavar="FILE", help="A prompt a line.")] = None,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE.mp4|DIR", help="Default: sample.mp4, or samples/ for several.")] = None,
    num_videos: Annotated[int, typer.Option("--num-videos", help="Of each prompt.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Of the first video; the next has seed + 1.")] = 0,
    steps: Annotated[int | None, typer.Option("--steps", help="Default, here and below: as the run's validation.")] = None,
    timesteps: Annotated[str | None, typer.Option("--timesteps", metavar="T,T,...", help="Of a few-step student; else its own.")] = None,
    solver: Annotated[str | None, typer.Option("--solver", metavar="unipc|euler|sde|ode", help="The first two: many steps.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="s of u + s (c - u); 1: none.")] = None,
    negative: Annotated[str | None, typer.Option("--negative", metavar="TEXT", help="Prompt to stay away from.")] = None,
    num_frames: Annotated[int | None, typer.Option("--num-frames", help="Frames of a video.")] = None,
    height: Annotated[int | None, typer.Option("--height", help="Pixels.")] = None,
    width: Annotated[int | None, typer.Option("--width", help="Pixels.")] = None,
    fps: Annotated[int | None, typer.Option("--fps", help="Frames a second.")] = None,
    local_attn_size: Annotated[int | None, typer.Option("--local-attn-size", help="Latent frames that a causal block sees.")] = None,
    sink_frames: Annotated[int | None, typer.Option("--sink-frames", help="The first of them, however long the video.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Whose VAE and text encoder to use, or an adapter's base.")] = None,
    step: Step = None,
    weights: Weights = "live",
    role: Role = "student",
    cluster: There = None,
    runs_dir: RunsDir = None,
) -> None:
    """Make videos with what a run trained."""
    from . import results

    options: dict[str, results.Value] = {
        "prompt": prompt, "prompts": prompts, "to": to, "num_videos": num_videos, "seed": seed, "steps": steps, "timesteps": timesteps,
        "solver": solver, "guidance": guidance, "negative": negative, "num_frames": num_frames, "height": height, "width": width,
        "fps": fps, "local_attn_size": local_attn_size, "sink_frames": sink_frames, "model": model,
        "step": step, "weights": weights, "role": role,
    }  # fmt: skip
    raise typer.Exit(results.sample(run, options, cluster, runs_dir))


cli_upkeep.register(app)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: run a command and turn what happened into an exit code and one clear message."""
    gc.set_threshold(50_000)  # what imports make is there to stay: there is no garbage in it to look for
    try:
        code = run(arguments)
    finally:
        gc.freeze()  # nor at the end, where the interpreter would take a tenth of a second to look
    sys.exit(code)


def run(arguments: list[str] | None = None) -> int:
    completing.prepare()
    usage_error: type[Exception] = typer.BadParameter.__bases__[0].__bases__[0]  # ClickException, of the click that typer uses
    try:
        code = _needed(sys.argv[1:] if arguments is None else arguments)(args=arguments, prog_name="fvlaunch", standalone_mode=False)
        sys.stdout.flush()  # here, where a closed pipe is still an error like any other
    except FvlaunchError as error:
        sys.stderr.write(render(error) + "\n")
        return error.exit_code
    except usage_error as error:
        sys.stderr.write(_usage(error) + "\n")
        return EXIT_USER
    except (typer.Abort, KeyboardInterrupt):
        sys.stderr.write("\ninterrupted\n")
        return 130
    except (BrokenPipeError, SystemExit) as error:  # as in `fvlaunch logs … | head`; typer makes a SystemExit of it
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        _discard_output()
        return 0
    except Exception:
        import traceback

        traceback.print_exc()
        sys.stderr.write("error: this should not have happened; the lines above say where\n")
        return EXIT_UNEXPECTED
    return code if isinstance(code, int) else 0


def _needed(words: list[str]) -> typer.Typer:
    """The app with the one command that is called: typer makes every option of all of them before it looks which is meant."""
    called = [one for one in app.registered_commands if words and words[0] == (one.name or (one.callback and one.callback.__name__))]
    if not called:
        return app  # help, completion, a wrong name
    alone = copy.copy(app)
    alone.registered_commands = called
    return alone


def _usage(error: Any) -> str:
    """What is wrong with the words of a command line; `fvlaunch` alone is asking for the help."""
    message = str(error.format_message())
    if type(error).__name__ == "NoArgsIsHelpError":
        return message
    context = getattr(error, "ctx", None)
    return f"error: {printable(message)}\nhint: {context.command_path if context else 'fvlaunch'} --help"


def _discard_output() -> None:
    """Nobody reads on: what is still buffered must not become an error when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
