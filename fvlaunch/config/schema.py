"""Owns the typed form of a recipe and of a cluster profile. Must not read files; the `train` block is trainers.config's."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from trainers.config import TrainConfig
from trainers.config.programs.download import Config as DownloadConfig
from trainers.config.programs.evaluate import Config as EvaluateConfig
from trainers.config.programs.export import Config as ExportConfig
from trainers.config.programs.preprocess import Config as PreprocessConfig
from trainers.config.section import Section

from ..schedulers import registry
from ..schedulers.slurm import gpu_counts
from . import sbatch_options
from .reliability import Reliability
from .values import ENV_NAME, SECRET_NAME, TIME_HINT, seconds, time_text

__all__ = ["Cluster", "ClusterResources", "Limits", "Recipe", "Reliability", "Resources", "seconds"]

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
    """Return a validator of a mapping that tells every wrong item at its own key and drops what comes out as None."""

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
    if SECRET_NAME.search(name):
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


def _executor(value: Any) -> Any:
    if value not in registry.names():
        raise _wrong(f"must be {' or '.join(map(repr, registry.names()))}, not {value!r}")
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
    """What a job needs of a cluster."""

    ranks: PositiveInt = 1
    """Number of processes, over all nodes; each has a GPU of its own where there are GPUs."""
    time: Time | None = None
    """Time limit of one attempt, where neither the cluster nor the command line gives one. A run goes on in the next attempt."""
    threads_per_rank: PositiveInt | None = None
    """CPU threads of each process. null: the cores of a node, divided by its ranks; fixed at submission, since sums depend on it."""


PROGRAMS = ("train", "preprocess", "download", "evaluate", "export")
"""What a job can be: the block of a recipe that says so, and the name that the ranks get it by."""


class Recipe(Section):
    """What to do, on how many ranks: exactly one of the blocks train, preprocess, download, evaluate, export."""

    description: Annotated[str, BeforeValidator(_one_line)] = ""
    """One line that `fvlaunch list recipes` shows."""
    tiny: bool = False
    """Put networks, clips and a batch of a laptop's size in place of the real ones and leave the rest as it is."""
    resources: Resources = Resources()
    """What the job needs of the cluster."""
    train: TrainConfig | None = None
    """Train networks."""
    preprocess: PreprocessConfig | None = None
    """Make training data from clips, prompts or others' parquet files."""
    download: DownloadConfig | None = None
    """Fetch models and data sets from the Hugging Face hub."""
    evaluate: EvaluateConfig | None = None
    """Measure samples of the moving-shapes task."""
    export: ExportConfig | None = None
    """Write a run's weights as a folder for diffusers, in a job."""

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
    """When a failing run is given up, and how patiently the agents watch the ranks."""

    crashes: NonNegative = 3
    """The run ends as failed when more attempts than this have crashed. `resume` starts counting anew, here and below."""
    hangs: NonNegative = 3
    """The run ends as failed when more attempts than this have hung: no rank made progress for longer than a step may take."""
    out_of_memory: NonNegative = 1
    """The run ends as failed when more attempts than this have run out of memory."""
    starts_without_progress: PositiveInt = 3
    """The run ends as failed when this many attempts since the last new step have failed, whatever the other budgets say."""
    interrupted_starts: PositiveInt = 20
    """The run ends as failed when the cluster has interrupted this many attempts since the last new step."""
    failed_saves: PositiveInt = 3
    """The run ends when this many checkpoints in a row could not be written, so that GPUs do not work unsaved."""
    notice_lead_s: PositiveFloat | None = None
    """How long before the time limit the ranks are told to save. null: as long as saves were measured to take; 120 until one was."""
    hang_floor_s: PositiveFloat = 120
    """A step is never taken for a hang before this time has passed."""
    hang_factor: PositiveFloat = 20
    """A step is taken for a hang after this many times the median step, if hang_floor_s has passed too."""
    phase_s: PositiveFloat = 1800
    """Longest silence of a rank outside of its steps: while it loads, prepares data, saves or warms up. Also how long a node may take to
    appear, and how long an attempt waits for room on a full disk."""
    head_silence_s: PositiveFloat = 120
    """The other nodes' agents give up after hearing nothing from the first node for this long."""
    poll_s: PositiveFloat = 1.0
    """How often an agent looks for `stop` and `cancel`."""
    grace_s: PositiveFloat = 30
    """From asking ranks to stop to killing them, where nothing else sets a deadline."""


NotifyOn = Literal["failed", "finished", "stopped", "cancelled", "stalled"]


class Notify(Section):
    """A command that is told what became of a run."""

    on: Annotated[list[NotifyOn], Field(min_length=1)] = ["failed", "finished", "stalled"]
    """After which events the command runs. stalled: an attempt hung, or crashed without reaching a new step."""
    command: Annotated[list[str], BeforeValidator(_words), Field(min_length=1)]
    """The program and its arguments: a list, or a line that is split as a shell would split it. No shell runs it. ./NAME lies beside this
    profile. The event is a JSON object on its standard input."""
    timeout_s: PositiveFloat = 30
    """The command is killed after this time."""


class ClusterResources(Section):
    """Defaults of this cluster for what a recipe's `resources` says."""

    time: Time | None = None
    """Time limit of one attempt on this cluster, in place of the recipe's."""
    threads_per_rank: PositiveInt | None = None
    """CPU threads of each process on this cluster, in place of the recipe's."""


class Cluster(Section):
    """Where to train."""

    description: Annotated[str, BeforeValidator(_one_line)] = ""
    """One line that `fvlaunch list clusters` shows."""
    executor: Annotated[str, BeforeValidator(_executor), Field(json_schema_extra={"enum": list(registry.names())})]
    """slurm: a job is handed to sbatch. local: a detached process on this machine runs it."""
    ranks_per_node: PositiveInt | None = None
    """Processes on a full node. null: as many as GPUs are asked for (slurm.gpus-per-node, gres and the like), else 1; of a local cluster
    as many as the recipe asks for, all on this machine."""
    device: Literal["cpu", "gpu"] | None = None
    """cpu: ranks compute on the CPU, whatever is there. gpu: on a GPU each, although the job may ask for none, as where they come with the
    partition. null: on GPUs; where the job was given some and torch cannot use them, it ends with an error. Only a job that asks for none
    computes on the CPU where it sees none, and submit says so."""
    gpu_memory_gb: PositiveFloat | None = None
    """Memory of one GPU: submit warns where the estimate of a run's memory is more."""
    runs_dir: Annotated[str, BeforeValidator(_run_path)] | None = None
    """Folder of the run directories, which all nodes must share. null: ./runs. --runs-dir and $FVLAUNCH_RUNS come first."""
    paths: Annotated[dict[str, str], BeforeValidator(_each(_path))] = {}
    """Named folders, used as ${paths.NAME} in recipes and in this file. May hold ${USER} and other environment variables, but not each
    other."""
    python: Annotated[str, BeforeValidator(_interpreter)] | None = None
    """Python interpreter on the nodes, which has fvlaunch's dependencies. null: the one that submits."""
    slurm: Annotated[dict[str, str | int | bool], BeforeValidator(_each(_sbatch))] = {}
    """Options of sbatch by their long names, such as gpus-per-node; true for an option without a value."""
    srun_args: list[str] = []
    """Further arguments of the srun that starts an agent on each node, for instance those of a container plugin."""
    setup: str = ""
    """Lines of bash that the batch script runs before srun: modules, a virtual environment. $NAME is the shell's, ${paths.NAME} is ours. A
    line that fails ends the job; append `|| true` to one that may."""
    env: Annotated[dict[str, str], BeforeValidator(_each(_variable))] = {}
    """Environment variables of the job. Numbers and words that YAML could read in several ways must be quoted. Names that look like a
    secret are refused, and so are those that fvlaunch sets."""
    secrets: list[Annotated[str, BeforeValidator(_secret)]] = []
    """Names of environment variables that are passed on to the job; their values, from the environment or ~/.config/fvlaunch/secrets/NAME,
    are never written into a script or a record, and are masked in logs."""
    continue_by: Literal["requeue", "resubmit"] = "requeue"
    """How a run gets its next life. requeue: the same job again. resubmit: a new job, for sites that cancel what they preempt, allow no
    requeue, or have no scontrol in their containers."""
    limits: Limits = Limits()
    """When a failing run is given up, and how patiently the agents watch the ranks."""
    reliability: Reliability | None = None
    """How often this cluster interrupts a run, and what that costs; null: as its keys' defaults say. Nothing at run time depends on it."""
    notify: Notify | None = None
    """A command that is run on the first node when a run ends or stalls; null: none."""
    resources: ClusterResources = ClusterResources()
    """This cluster's values for a recipe's `resources`; --set comes before them."""

    def resolved(self) -> dict[str, Any]:
        """Plain data that parses back to the same profile. What older copies of the code lack is left out where it says nothing."""
        return self.model_dump(mode="json", exclude={key for key in ("device", "reliability") if getattr(self, key) is None})

    def gpus_of_a_node(self, given: int | None, ranks: int) -> int | None:
        """Return how many GPUs a node with so many ranks must have. 0: the CPU is meant; None: none were asked for.

        `given`: what the scheduler says that the job has there.
        """
        if self.device == "cpu":
            return 0
        gpus = given if given is not None else gpu_counts.num_gpus(self.slurm)
        if self.device == "gpu":
            return ranks
        return min(gpus, ranks) if gpus else None

    def leaves_device_open(self, options: Mapping[str, Any]) -> bool:
        """Return whether a job with these options asks for no GPU, nor for a part of one, while nothing says what its ranks compute on."""
        return self.device is None and not gpu_counts.num_gpus(options) and not gpu_counts.share(options)

    def default_ranks_per_node(self) -> int | None:
        """Ranks on a full node; None for a local profile that leaves it open."""
        if self.ranks_per_node is not None or registry.scheduler(self.executor).runs_here:
            return self.ranks_per_node
        return gpu_counts.num_gpus(self.slurm) or 1
