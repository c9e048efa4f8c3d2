"""Owns the command lines that list, show, export and sample. Must not do what they ask for: each calls one function in commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import completion
from .options import (
    AsJson,
    ClusterName,
    RunName,
    RunsDir,
    Sets,
)


def register(app: typer.Typer) -> None:
    """Add the commands, in the order in which --help lists them."""
    app.command(name="list")(list_)
    for function in (show, export, sample):
        app.command()(function)


def list_(
    what: Annotated[str, typer.Argument(metavar="KIND", help="recipes, clusters, pipelines or runs.")],
    json_: AsJson = False,
    runs_dir: RunsDir = None,
) -> None:
    """What there is, and where each was found."""
    from ..commands import listing

    raise typer.Exit(listing.list_(what, json_=json_, runs_dir=runs_dir))


def show(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe's name or file, or a run's run.yaml.", autocompletion=completion.recipes)
    ],
    cluster: ClusterName = None,
    sets: Sets = None,
    ettr: Annotated[
        bool, typer.Option("--ettr", help="Instead: the effective training time of 8 to 1,024 nodes there, and how often to save.")
    ] = False,
    json_: AsJson = False,
) -> None:
    """A recipe on a cluster, resolved, with each value's origin."""
    from ..commands import listing

    if ettr:
        from ..commands import effective_training

        effective_training.show(recipe, cluster, sets or [], json_=json_)
    else:
        listing.show(recipe, cluster, sets or [], json_=json_)


Step = Annotated[int | None, typer.Option("--step", help="Checkpoint; default: the newest that verifies.")]


Weights = Annotated[str, typer.Option("--weights", metavar="live|ema", help="Trained weights or their moving average.")]


Role = Annotated[str, typer.Option("--role", help="Whose weights.")]


There = Annotated[str | None, typer.Option("--cluster", metavar="NAME", help="Do it there, on Slurm as a job; default: here.")]


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
    from ..commands import results

    options: dict[str, Any] = {
        "to": to, "step": step, "weights": weights, "role": role, "merge": merge, "lora_keys": lora_keys, "dtype": dtype,
        "max_shard_gb": max_shard_gb, "push_to_hub": push_to_hub,
    }  # fmt: skip
    raise typer.Exit(results.export(run, options, cluster, runs_dir))


def sample(
    run: Annotated[str, typer.Argument(metavar="RUN|FOLDER", help="A run, or a folder that was exported or downloaded.")],
    prompt: Annotated[list[str] | None, typer.Option("--prompt", metavar="TEXT", help="May be given several times.")] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", metavar="FILE", help="A prompt a line; or .jsonl, .json, .csv.")] = None,
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
    from ..commands import results

    options: dict[str, Any] = {
        "prompt": prompt, "prompts": prompts, "to": to, "num_videos": num_videos, "seed": seed, "steps": steps, "timesteps": timesteps,
        "solver": solver, "guidance": guidance, "negative": negative, "num_frames": num_frames, "height": height, "width": width,
        "fps": fps, "local_attn_size": local_attn_size, "sink_frames": sink_frames, "model": model,
        "step": step, "weights": weights, "role": role,
    }  # fmt: skip
    raise typer.Exit(results.sample(run, options, cluster, runs_dir))
