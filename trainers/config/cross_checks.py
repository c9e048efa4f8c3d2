"""Owns the checks that compare one part of a train block with another, or with the world size. Must not import torch.

The launcher runs them before anything is submitted and each rank runs them again: run.yaml may have been edited.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .counting import counted
from .data import SHAPES_CLIP, SHAPES_STRIDE, DataConfig
from .discovery import is_own
from .methods import custom
from .section import Problem
from .train import TrainConfig


@dataclass(frozen=True)
class Batching:
    """How a global batch is cut: micro-batches of `micro`, `accumulation` rounds on each of `data_parallel` ranks."""

    micro: int
    data_parallel: int
    accumulation: int


def batching(config: TrainConfig, world_size: int) -> Batching:
    """Return the cut of the global batch at a world size; ValueError names the sizes that divide."""
    replicate, shard, _ = config.parallel.mesh(world_size)
    ranks, batch = replicate * shard, config.data.global_batch_size
    micro = config.data.micro_batch_size
    if micro is None:
        if batch % ranks:
            raise ValueError(f"global_batch_size {batch} does not divide over {ranks} ranks; ranks that do: {_divisors(batch)}")
        micro = batch // ranks
    if batch % (micro * ranks):
        fits = _divisors(batch // micro) if batch % micro == 0 else []
        with_ranks = f"ranks that do at micro_batch_size {micro}: {fits}" if fits else f"micro_batch_size must divide {batch}"
        raise ValueError(
            f"global_batch_size {batch} is not a multiple of micro_batch_size {micro} x {counted(ranks, 'rank')}; {with_ranks}"
        )
    return Batching(micro, ranks, batch // (micro * ranks))


def check(config: TrainConfig, world_size: int) -> list[Problem]:
    """Return every contradiction in a train block at a world size; empty when it can start."""
    return [*_roles(config), *_sizes(config), *_validation(config), *_world(config, world_size), *_own(config)]


def _own(config: TrainConfig) -> list[Problem]:
    """Return the problems that the method and the models report; a model's section may do without `problems`."""
    problems = config.method.problems(config)
    for role, model in config.models.items():
        problems += getattr(model, "problems", _none)(role, config)
    return problems


def _none(_role: str, _config: TrainConfig) -> list[Problem]:
    return []


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _roles(config: TrainConfig) -> list[Problem]:
    method = config.method
    if isinstance(method, custom.Config):
        return []
    known = {*method.trainable_roles, *method.frozen_roles}
    problems = [
        Problem(("models",), f"method {method.kind} needs the role {role!r}", f"add models.{role}")
        for role in sorted(known - config.models.keys() - set(method.optional_roles))
    ]
    problems += [
        Problem(("models", role), f"method {method.kind} has no role {role!r}", f"its roles: {', '.join(sorted(known))}")
        for role in sorted(config.models.keys() - known)
    ]
    problems += [
        Problem(("optimizers",), f"the trainable role {role!r} has no optimizer", f"add optimizers.{role}")
        for role in method.trainable_roles
        if role not in config.optimizers
    ]
    problems += [
        Problem(("optimizers", role), f"{role!r} is not trained by method {method.kind}", "remove it")
        for role in sorted(config.optimizers.keys() - set(method.trainable_roles))
    ]
    for role, model in config.models.items():
        if is_own(str(getattr(model, "family", ""))):
            continue
        init_from, architecture = getattr(model, "init_from", None), getattr(model, "architecture", None)
        if (init_from is None) == (architecture is None):
            problems.append(
                Problem(
                    ("models", role),
                    "needs exactly one of init_from and architecture",
                    "init_from loads weights; architecture starts from random ones",
                )
            )
    return problems


def _sizes(config: TrainConfig) -> list[Problem]:
    data = config.data
    problems = [replace(problem, path=("data", *problem.path)) for problem in data.misfits()]
    for name, values in (("latents_mean", data.latents_mean), ("latents_std", data.latents_std)):
        for role, model in config.models.items():
            channels = getattr(getattr(model, "architecture", None), "in_channels", None)
            if values is not None and channels is not None and len(values) != channels:
                problems.append(Problem(("data", name), f"has {len(values)} values, but models.{role} has {channels} channels"))
    if (data.latents_mean is None) != (data.latents_std is None):
        problems.append(Problem(("data",), "latents_mean and latents_std go together"))
    if data.latents_mean and data.latents_std and len(data.latents_mean) != len(data.latents_std):
        problems.append(
            Problem(("data", "latents_std"), f"has {len(data.latents_std)} values, but latents_mean has {len(data.latents_mean)}")
        )
    if data.prepare is not None and data.source is not None:
        problems.append(Problem(("data", "source"), "data.prepare makes parquet files, which need no source", "leave one of them out"))
    if data.prepare is not None and not isinstance(data.path, str):
        problems.append(Problem(("data", "path"), "data.prepare makes one folder", "name that folder, or set prepare: null"))
    return problems or _prepared_sizes(data)


def _prepared_sizes(data: DataConfig) -> list[Problem]:
    """Return what is wrong where data.prepare makes clips of another size than the one that is trained on."""
    frames, height, width = SHAPES_CLIP
    fitting = data.model_copy(update={"num_frames": frames, "height": height, "width": width, "vae_stride": SHAPES_STRIDE})
    if data.prepare is None or data.latent_shape == fitting.latent_shape:
        return []
    asked = f"data says {data.num_frames} of {data.height}x{data.width} with vae_stride {list(data.vae_stride)}"
    size = f"num_frames: {frames}, height: {height}, width: {width}, vae_stride: {list(SHAPES_STRIDE)}"
    hint = f"{size}; or prepare: null, and clips of your own"
    message = (
        f"data.prepare makes clips of {counted(frames, 'frame')} of {height}x{width} with vae_stride {list(SHAPES_STRIDE)}, but {asked}"
    )
    return [Problem(("data", "prepare"), message, hint)]


def _validation(config: TrainConfig) -> list[Problem]:
    validation, path = config.callbacks.validation, ("callbacks", "validation")
    if validation is None:
        return []
    problems = [replace(problem, path=(*path, *problem.path)) for problem in validation.sizes(config.data).misfits()]
    if validation.weights == "ema" and config.callbacks.ema is None:
        problems.append(Problem((*path, "weights"), "is ema, but there are no averages", "add callbacks.ema, or weights: live"))
    if wrong := validation.sampler_problem(config.method.few_steps(config.flow_shift), config.flow_shift):
        problems.append(Problem((*path, wrong[0]), f"{wrong[0]}: {wrong[1]}", wrong[2]))
    if wrong := validation.window_problem(config.models.get("student"), config.data):
        problems.append(Problem((*path, wrong[0]), f"{wrong[0]}: {wrong[1]}", wrong[2]))
    return problems


def _heads(config: TrainConfig) -> list[Problem]:
    """Return the problems of heads that sequence-parallel ranks cannot share; of a model that is loaded, only the rank knows their
    number."""
    counts = {role: getattr(getattr(model, "architecture", None), "num_attention_heads", None) for role, model in config.models.items()}
    return [
        Problem(
            ("parallel", "sequence"),
            f"{config.parallel.sequence} does not divide the {heads} attention heads of models.{role}",
            f"use one of {_divisors(heads)}",
        )
        for role, heads in counts.items()
        if heads is not None and heads % config.parallel.sequence
    ]


def _world(config: TrainConfig, world_size: int) -> list[Problem]:
    if config.parallel.sequence > 1:
        hint = "use sequence: 1 and shard over more ranks"
        return [Problem(("parallel", "sequence"), "sequence parallelism is not available yet", hint), *_heads(config)]
    try:
        config.parallel.mesh(world_size)
    except ValueError as error:
        return [Problem(("parallel",), str(error), "leave replicate or shard null to fill the world size")]
    try:
        batching(config, world_size)
    except ValueError as error:
        message, _, hint = str(error).partition("; ")
        return [Problem(("data", "global_batch_size"), message, hint)]
    return []
