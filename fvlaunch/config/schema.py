"""Owns the typed form of a recipe and of a cluster profile. Must not read files; the `train` block is trainers.config's."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from trainers.config import TrainConfig
from trainers.config.programs.download import Config as DownloadConfig
from trainers.config.programs.evaluate import Config as EvaluateConfig
from trainers.config.programs.export import Config as ExportConfig
from trainers.config.programs.preprocess import Config as PreprocessConfig
from trainers.config.section import Section

from . import sbatch_options
from .values import ENV_NAME, TIME_HINT, seconds, time_text

__all__ = ["Cluster", "ClusterResources", "Limits", "Recipe", "Resources", "seconds"]

_SECRET = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|API_KEY|SECRET_KEY|ACCESS_KEY)$")
_OURS = re.compile(
    r"(RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|MASTER_ADDR|MASTER_PORT|OMP_NUM_THREADS|(TRAINER|SLURM|SBATCH|FVLAUNCH)_.*)"
)


def _wrong(message: str, hint: str = "") -> PydanticCustomError:
    return PydanticCustomError("fvlaunch", "{message}", {"message": message, "hint": hint})


def _time(value: Any) -> Any:
    try:
        return None if value is None else time_text(value)
    except ValueError as error:
        raise _wrong(str(error), TIME_HINT) from None


def _each(check: Callable[[str, Any], Any]) -> Callable[[Any], Any]:
    """A validator of a mapping that tells every wrong item at its own key and drops what comes out as None."""

    def run(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        good, errors = {}, []
        for key, item in value.items():
            try:
                good[key] = check(key, item)
            except PydanticCustomError as error:
                errors.append(InitErrorDetails(type=error, loc=(key,), input=item))
        if errors:
            raise ValidationError.from_exception_data("mapping", errors)
        return {key: item for key, item in good.items() if item is not None}

    return run


def _sbatch(name: str, value: Any) -> Any:
    try:
        return sbatch_options.option(name, value)
    except sbatch_options.OptionError as error:
        raise _wrong(error.message, error.hint) from None


def _variable(name: str, value: Any) -> Any:
    if not ENV_NAME.fullmatch(name):
        raise _wrong(f"{name!r} cannot name an environment variable")
    if _OURS.fullmatch(name):
        raise _wrong(f"{name} is set by fvlaunch", "use resources.threads_per_rank" if name == "OMP_NUM_THREADS" else "remove it")
    if _SECRET.search(name):
        raise _wrong(f"{name} looks like a secret, and env is written to run.yaml", f"remove it here and write `secrets: [{name}]`")
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(f"{value!r} can be written in several ways", "quote it as the program expects it")
    return str(value)


def _path(name: str, value: Any) -> Any:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise _wrong(f"{name!r} cannot name a path", "use letters, digits, `_` and `-`")
    if value is not None and (not isinstance(value, str) or not value):
        raise _wrong("expected a path", "quote it")
    return value


def _secret(value: Any) -> Any:
    if isinstance(value, str) and not ENV_NAME.fullmatch(value):
        raise _wrong("secrets holds names of environment variables, never their values", "for example [WANDB_API_KEY]")
    return value


def _run_path(value: str) -> str:
    if "%" in value:
        raise _wrong(f"{value!r} holds a %, which Slurm expands in paths", "choose a folder without it")
    return value


def _interpreter(value: str) -> str:
    if value.startswith("-") or not value.strip():
        raise _wrong(f"{value!r} is not an interpreter", "give its path")
    return value


def _words(value: Any) -> Any:
    try:
        return shlex.split(value) if isinstance(value, str) else value
    except ValueError as error:
        raise _wrong(f"the command cannot be split into words: {error}", "write it as a list: [program, argument]") from None


def _one_line(value: Any) -> Any:
    return " ".join(value.split()) if isinstance(value, str) else value


Time = Annotated[str, BeforeValidator(_time)]
NonNegative = Annotated[int, Field(ge=0)]


class Resources(Section):
    ranks: PositiveInt = 1
    """Processes; one for each GPU where there are GPUs."""
    time: Time | None = None
    """Time limit where neither the cluster nor the command line gives one."""
    threads_per_rank: PositiveInt | None = None
    """null: cores / ranks on a node, fixed at submission, since sums depend on it."""


PROGRAMS = ("train", "preprocess", "download", "evaluate", "export")
"""What a job can be: the block of a recipe that says so, and the name that the ranks get it by."""


class Recipe(Section):
    """What to do, on how many ranks: exactly one of the blocks train, preprocess, download, evaluate, export."""

    description: Annotated[str, BeforeValidator(_one_line)] = ""
    tiny: bool = False
    """Networks, clips and batch of a laptop's size in place of the real ones, the rest as it is: --set tiny=true."""
    resources: Resources = Resources()
    train: TrainConfig | None = None
    preprocess: PreprocessConfig | None = None
    download: DownloadConfig | None = None
    evaluate: EvaluateConfig | None = None
    export: ExportConfig | None = None

    @model_validator(mode="after")
    def _one_program(self) -> Recipe:
        given = [name for name in PROGRAMS if getattr(self, name) is not None]
        if not given:
            raise _wrong("'train' is missing", "add train (or preprocess, download, evaluate or export)")
        if len(given) > 1:
            raise _wrong(f"{' and '.join(given)} exclude each other", "a recipe does one thing; write the other one in a file of its own")
        return self

    @property
    def program(self) -> str:
        """Which of PROGRAMS it is."""
        return next(name for name in PROGRAMS if getattr(self, name) is not None)

    @property
    def block(self) -> Any:
        """The block of its program."""
        return getattr(self, self.program)

    def resolved(self) -> dict[str, Any]:
        """Plain data that parses back to the same job: with all defaults, without the programs that it is not. `tiny` has been applied."""
        return self.model_dump(mode="json", exclude={"tiny", *PROGRAMS} - {self.program})


class Limits(Section):
    crashes: NonNegative = 3
    hangs: NonNegative = 3
    out_of_memory: NonNegative = 1
    starts_without_progress: PositiveInt = 3
    interrupted_starts: PositiveInt = 20
    """Starts without progress that were ended by the cluster, not by a failure of ours."""
    failed_saves: PositiveInt = 3
    notice_lead_s: PositiveFloat | None = None
    """How long before the time limit ranks are told to save; null: from the measured save time, 120 until one was measured."""
    hang_floor_s: PositiveFloat = 120
    """A step may always take this long..."""
    hang_factor: PositiveFloat = 20
    """...and this many times the median step."""
    phase_s: PositiveFloat = 1800
    """Longest silence while loading, preparing, saving or warming up."""
    head_silence_s: PositiveFloat = 120
    """Other nodes give up after hearing nothing from the first for so long."""
    poll_s: PositiveFloat = 1.0
    grace_s: PositiveFloat = 30
    """From asking ranks to stop to killing them, where nothing else sets a deadline."""


NotifyOn = Literal["failed", "finished", "stopped", "cancelled", "stalled"]


class Notify(Section):
    """A command that is told what became of a run."""

    on: Annotated[list[NotifyOn], Field(min_length=1)] = ["failed", "finished", "stalled"]
    """stalled: an attempt hung, or ended without a new step."""
    command: Annotated[list[str], BeforeValidator(_words), Field(min_length=1)]
    """An argument list, or a line that is split as a shell would; never run by one. The event is a JSON object on its stdin."""
    timeout_s: PositiveFloat = 30


class ClusterResources(Section):
    """Defaults of this cluster for what a recipe's `resources` says."""

    time: Time | None = None
    threads_per_rank: PositiveInt | None = None


class Cluster(Section):
    """Where to train."""

    description: Annotated[str, BeforeValidator(_one_line)] = ""
    executor: Literal["slurm", "local"]
    ranks_per_node: PositiveInt | None = None
    """null: slurm.gpus-per-node (or gres), else 1. Local: one node, as many ranks as asked."""
    gpu_memory_gb: PositiveFloat | None = None
    """Of one GPU: submit warns where the estimate of a run's memory is more."""
    runs_dir: Annotated[str, BeforeValidator(_run_path)] | None = None
    """Shared by all nodes; null: ./runs."""
    paths: Annotated[dict[str, str], BeforeValidator(_each(_path))] = {}
    """Named folders, used as ${paths.NAME} in recipes and here."""
    python: Annotated[str, BeforeValidator(_interpreter)] | None = None
    """Interpreter on the nodes; null: the one that submits."""
    slurm: Annotated[dict[str, str | int | bool], BeforeValidator(_each(_sbatch))] = {}
    """sbatch's own long names."""
    srun_args: list[str] = []
    setup: str = ""
    """Shell lines before srun: modules, venv. `$NAME` is the shell's, ${paths.NAME} is ours."""
    env: Annotated[dict[str, str], BeforeValidator(_each(_variable))] = {}
    secrets: list[Annotated[str, BeforeValidator(_secret)]] = []
    """Names of environment variables that are passed on; their values are never written down."""
    continue_by: Literal["requeue", "resubmit"] = "requeue"
    """How a run gets its next life: the same job again, or a new one, for sites that cancel what they preempt or allow no requeue."""
    limits: Limits = Limits()
    notify: Notify | None = None
    """What is run on the first node when a run ends or stalls."""
    resources: ClusterResources = ClusterResources()

    def default_ranks_per_node(self) -> int | None:
        """Ranks on a full node; None for a local profile that leaves it open."""
        if self.ranks_per_node is not None or self.executor == "local":
            return self.ranks_per_node
        return sbatch_options.num_gpus(self.slurm) or 1
