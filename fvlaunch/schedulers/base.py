"""Owns what every scheduler can do, as one protocol, and the values that go in and come out. Must not know any scheduler by name.

A scheduler is a sub-folder of this room with a module `scheduler` that holds it as SCHEDULER; `registry.scheduler(NAME)` finds it by the
folder's name, which is what `executor:` of a cluster profile says. No list names them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from ..errors import SchedulerUnreachable


class Liveness(str, Enum):
    """Whether a job is still there. "Nobody can say" is an answer of its own, never "gone"."""

    ALIVE = "alive"
    OVER = "over"
    UNKNOWN = "unknown"


class JobPhase(Enum):
    """Where a job is on its way."""

    WAITING = "waiting"
    STARTED = "started"
    """It runs, or is about to, or is ending."""
    OVER = "over"


class Blocked(str, Enum):
    """Why a waiting job does not start by itself, however long it waits."""

    HELD = "held"
    """Until somebody releases it."""
    NEVER = "never"
    """As long as it asks for what it asks: it has to be changed, or ended."""


class NoticeCause(Enum):
    """Why a job gets a signal now, as its scheduler knows it; `runs.attempts.Cause` is what ended an attempt, whoever did."""

    PREEMPTION = "preemption"
    TIME_LIMIT = "time_limit"
    REQUEUED = "requeued"
    """By the scheduler or an administrator, already: save, and do not requeue again."""
    CANCELLED = "cancelled"
    """The job is being ended and nobody brings it back: never requeue."""
    NOTICE = "notice"
    """The scheduler is content: our own early reminder, or a person's signal. Follow the intent."""
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class JobSpec:
    """A run's job, told without any scheduler's words: on each node one process that calls `function(argument)`."""

    name: str
    token: str
    """Of this submission; the scheduler keeps it with the job wherever it can, so that the job can be found by it."""
    folder: Path
    """The job's own: its script and what it prints go there. Its last part is the token."""
    code: Path
    """Goes first on the Python path of the job."""
    function: Callable[[str], None]
    argument: str
    template: Callable[[str], Path]
    """Finds a job template by its file name."""
    nodes: int = 1
    python: str | None = None
    """The interpreter on the nodes; None: the one that submits."""
    setup: str = ""
    """Shell lines that run before the interpreter."""
    environment: Mapping[str, str] | None = None
    options: Mapping[str, Any] | None = None
    """The scheduler's own options by their long names; True is an option without a value."""
    launcher_options: Sequence[str] = ()
    """Arguments for what starts the processes on the nodes (srun)."""
    resubmits: bool = False
    """The job's next life is a new job, not the same one again."""
    given_up: Path | None = None
    """The file in which the job says why it does not go on, where `function` could not."""
    early_notice_s: int = 120
    """How long before its end the scheduler is to remind the job."""
    most_failed_starts: int = 3
    """So many starts in a row that end before an attempt is begun end the job."""
    most_memory_failures: int = 1
    """Processes that start ranks may run out of memory so often before that ends the job."""


@dataclass(frozen=True)
class ToolSpec:
    """A program of one process that somebody waits for."""

    name: str
    argv: Sequence[str]
    cluster: str = ""
    """The profile's name, for what is told."""
    environment: Mapping[str, str] | None = None
    """May be written into a script; secrets never are."""
    secrets: Mapping[str, str] | None = None
    """Values that are known here."""
    secret_files: Mapping[str, Path] | None = None
    """Where a value lies that the environment of another machine may not have."""
    setup: str = ""
    options: Mapping[str, Any] | None = None
    launcher_options: Sequence[str] = ()


@dataclass(frozen=True)
class Submission:
    """A job that was taken."""

    job_id: str
    interrupted: bool = False
    """Ctrl-C came while it was handed over."""


@dataclass(frozen=True)
class JobRef:
    """All by which a job can be asked about."""

    token: str
    job_id: str | None = None
    """None: not known, as the scheduler's reply was lost."""
    identity: str | None = None
    """Which scheduler took it: `Scheduler.identity` of then."""
    host: str | None = None
    """Which machine it is bound to: `Scheduler.host` of then."""
    submitted_at: float = 0.0


@dataclass(frozen=True)
class JobObservation:
    """What the scheduler, or the process table, says of a run's job."""

    alive: bool | None
    """None: nobody can say."""
    pending: bool = False
    again: bool = False
    """It ran before: the scheduler counts its restarts."""
    words: str = ""
    """Its state and reason, explained."""
    ended: str = ""
    """The scheduler's word for an end: COMPLETED, CANCELLED, TIMEOUT…"""
    job_id: str | None = None
    """Of a job found by its token, where the record has none yet, or one that has handed over to it."""
    absent: bool = False
    """The scheduler answers and does not know it, nor do the accounts."""
    blocked: Blocked | None = None
    """It waits, and does not start by itself."""


@dataclass(frozen=True)
class Allocation:
    """The job that this process is part of, and where in it."""

    job_id: str
    restart_count: int
    """How often this job ran before."""
    node: int
    hosts: tuple[str, ...]
    """Every node by the scheduler's name, in its order; this node is hosts[node]."""
    token: str
    end_time: float | None
    """Unix time of the allocation's end, where the environment tells it."""
    gpus: int | None = None
    """GPUs of this node that the job was given, where the environment tells it."""
    length_s: float | None = None
    """From the allocation's start to its end, where the environment tells both."""


@dataclass(frozen=True)
class SignalReason:
    """Why a job was signalled, and in how many seconds it will be killed, where that is known."""

    cause: NoticeCause
    left_s: float | None = None


class Scheduler(Protocol):
    """What the launcher and the agents ask of whatever runs jobs. Methods may raise SchedulerUnreachable: nobody answered."""

    # Facts, each for what asks for it. They cost nothing.
    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str:
        """What people call it."""

    @property
    def has_queue(self) -> bool:
        """A job may wait for its start, and a submission's reply may be lost: jobs are then found by their token."""

    @property
    def can_requeue(self) -> bool:
        """A job can be given back and runs again."""

    @property
    def takes_sbatch_options(self) -> bool:
        """It takes batch scripts with sbatch's options: `slurm:` of a profile, --partition and the like, --prepare, --test-only."""

    @property
    def chains_jobs(self) -> bool:
        """A job can wait until another has ended well; else a process of ours runs a pipeline's stages in order."""

    @property
    def runs_here(self) -> bool:
        """Jobs run on the machine that submits, one node: its cores and GPUs are theirs, its files are seen at once."""

    @property
    def poll_s(self) -> float:
        """Seconds between two questions of somebody who waits for a job."""

    # From outside of a job
    def unusable(self) -> str | None:
        """Return why jobs cannot be submitted from this machine; None where they can."""

    def identity(self) -> str | None:
        """Return what the scheduler that answers here calls itself, to know later whom to ask; None where that is of no matter."""

    def check_answers(self) -> None:
        """Raise SchedulerUnreachable where nobody answers now: what cannot be submitted is refused before anything is made for it."""

    def host(self) -> str | None:
        """Return the machine that jobs are bound to; None where any machine may ask about them."""

    def site_facts(self) -> dict[str, str]:
        """Return what numbers may depend on, such as its version, for the lock of a run."""

    def batch_script(self, job: JobSpec) -> str | None:
        """Return the script that would be submitted, and write nothing; None where there is none."""

    def prepare(self, job: JobSpec) -> Path:
        """Write all that the job needs and return the batch script that somebody else will submit."""

    def submit(self, job: JobSpec) -> Submission:
        """Submit a job. SchedulerRefused: it was not taken; any other error: nobody knows."""

    def find(self, token: str, *, living: bool = False) -> list[str]:
        """Return the ids of jobs with the token; with `living` only of those that are not over."""

    def observe(self, jobs: Sequence[JobRef]) -> tuple[list[JobObservation], SchedulerUnreachable | None]:
        """Return what is known of each job, asking once for all; and the error, if nobody could be asked."""

    def liveness(self, job: JobRef) -> Liveness:
        """Say whether the job, or one that goes on for it, is still there. UNKNOWN: somebody elsewhere would know."""

    def phase(self, job: JobRef) -> JobPhase:
        """Say where a job is on its way."""

    def cancel(self, job_id: str) -> None:
        """End a job: its processes get SIGTERM. One that is over already is no error."""

    def run_tool(self, tool: ToolSpec) -> int:
        """Run a program to its end, show what it prints, and return its exit code."""

    # From inside of a job
    def allocation(self) -> Allocation | None:
        """Return where in which job of this scheduler this process is; None where it is in none."""

    def holds(self, job_id: str) -> bool:
        """Say, cheaply, whether somebody still holds this process' job; where a scheduler ends its jobs by itself, always True."""

    def can_ask(self) -> bool:
        """Say whether the scheduler's programs are here: many containers lack them."""

    def requeue(self, job_id: str) -> bool:
        """Have the job run again from its start; False where the scheduler does not know it."""

    def exclude_node(self, job_id: str, node: str, num_nodes: int) -> bool:
        """Keep a requeued job off a node; False, and nothing done, where fewer than `num_nodes` others are left."""

    def left_s(self, job_id: str) -> float | None:
        """Return in how many seconds a running job must end, by the scheduler's clock; None without a limit."""

    def why_signalled(self, job: Allocation) -> SignalReason:
        """Say why this job gets a signal now. Raises nothing: UNKNOWN where nobody answers."""
