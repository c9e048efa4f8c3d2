"""Owns the run directory: its layout, the run's record, intent, attempts and locks.

Must not ask the scheduler anything and must not know what a training step is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from ..errors import FvlaunchError, NameTaken
from ..files import append_line, overwrite_json, publish_json_somehow, read_json, read_lines, sealed
from . import locks
from .events import CURRENT_ATTEMPT, mistakes_in_lines, whole_events
from .record_check import COUNT, NAME, TIME, Shape, list_of, one_of, or_null, why_unreadable

Want = Literal["run", "stop", "cancel"]
FINAL_STATES = ("finished", "failed", "stopped", "cancelled")
LOCK_WAIT_S = 20.0
ATTEMPT_ROOM = 4095
"""attempt.json has so many bytes from the start, so that it can be rewritten on a disk that has become full."""
PIPELINE_FILE = "pipeline.json"
"""In the folder of a pipeline, whose stages are the run directories in it."""


@dataclass(frozen=True)
class Record:
    """run.json: what the launcher and the head agent know of a run."""

    name: str
    recipe: str
    cluster: str
    executor: str
    """The scheduler that runs its jobs, by name."""
    generation: int
    token: str
    """Name of the submission under way or in force; it is in the job's comment and working directory."""
    max_steps: int
    ranks: int
    nodes: int
    submitted_at: float
    updated_at: float
    state: str = "submitting"
    """waiting (a stage whose turn has not come), submitting, submitted, or one of FINAL_STATES.

    What a job is doing right now only status/run_status.py can say.
    """
    reason: str = ""
    job_id: str | None = None
    """The job that owns the run; it ends when the scheduler says that the job is gone, never by age."""
    job_ids: tuple[str, ...] = ()
    host: str | None = None
    """Local executor: where the job runs."""
    scheduler: str | None = None
    """Slurm: what the cluster that took the job calls itself; another one cannot say what became of it."""

    @classmethod
    def parse(cls, value: dict[str, Any]) -> Record:
        """Make a record of run.json's object; fields that another version wrote are left out. ValueError says which field is wrong."""
        if mistake := _RECORD.mistake(value):
            raise ValueError(mistake)
        known = {key: value[key] for key in value.keys() & _KNOWN}
        return cls(**{**known, "job_ids": tuple(value["job_ids"])})


_KNOWN = frozenset(f.name for f in fields(Record))
_STATES = ("waiting", "submitting", "submitted", "queued", "running", "requeued", "lost", *FINAL_STATES)
"""Some of these no version has written yet; what is none of them has been damaged."""
_RECORD = Shape.of(
    Record, required=("state", "job_id", "job_ids"), token=NAME, job_id=or_null(NAME), job_ids=list_of(NAME), executor=NAME,
    state=one_of(_STATES), generation=COUNT, max_steps=COUNT, ranks=COUNT, nodes=COUNT,
    submitted_at=TIME, updated_at=TIME,
)  # fmt: skip


@dataclass(frozen=True)
class Intent:
    want: Want
    generation: int


_INTENT = Shape.of(Intent, want=one_of(("run", "stop", "cancel")), generation=COUNT)


class _inside:
    """A path in the run directory, made when it is asked for: where thousands of runs are listed, most are not."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, run: Run, _: object = None) -> Path:
        return run.path / self._name


class Run:
    """One run directory. Reading never needs a lock; `locked` guards the short read-change-write of run.json and intent.json."""

    def __init__(self, path: Path, listed: dict[str, Any] | None = None) -> None:
        self.path = path
        self._listed = listed

    record_file = _inside("run.json")
    intent_file = _inside("intent.json")
    config_file = _inside("run.yaml")
    events_file = _inside("events.jsonl")
    attempt_file = _inside("attempt.json")
    heartbeat_file = _inside("heartbeat.json")
    metrics_file = _inside("metrics.jsonl")
    entries_file = _inside("entries.json")
    """How many entries of its source a preprocessing has used, how many not and why; written at its end."""
    attempts = _inside("attempts")
    checkpoints = _inside("checkpoints")
    code = _inside("code")
    job = _inside("job")
    logs = _inside("logs")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def name(self) -> str:
        """What RUN on a command line may be: a stage of a pipeline is PIPELINE/STAGE."""
        name = self.path.name
        folder = str(self.path)[: -len(name) - 1]
        return f"{self.path.parent.name}/{name}" if os.path.isfile(f"{folder}/{PIPELINE_FILE}") else name  # noqa: PTH113 (thousands)

    def first_record(self) -> Record:
        """Return the record as it was read when runs were listed, once: with thousands of runs each file is read once, not thrice."""
        value, self._listed = self._listed, None
        return self._parsed(value) if value else self.record()

    def state_when_listed(self) -> str:
        return str(self._listed.get("state")) if self._listed is not None else self.record().state

    def record(self) -> Record:
        self._listed = None  # older than what is read now, and than what whoever reads it may write
        return self._parsed(read_json(self.record_file))

    def _parsed(self, value: dict[str, Any] | None) -> Record:
        try:
            if value is not None:
                return Record.parse(value)
            mistake = why_unreadable(self.record_file)
        except ValueError as error:
            mistake = str(error)
        raise FvlaunchError(f"{self.record_file} {mistake}", hint=self._how_to_mend()) from None

    def _how_to_mend(self) -> str:
        jobs = [str(event["job_id"]) for event in self.events() if event.get("job_id")]
        job = f"its last job is {jobs[-1]}; " if jobs else ""
        anew = f"; fvlaunch submit {self.config_file} makes the run anew" if self.config_file.is_file() else ""
        return f"{job}put run.json back from a copy of the folder, or move the folder away{anew}"

    def intent(self) -> Intent:
        """Return what the person last asked for; where its file is damaged, by the launcher's events: a cancelled run stays cancelled."""
        value = read_json(self.intent_file)
        return Intent(value["want"], value["generation"]) if value is not None and _INTENT.fits(value) else _intent_told_by(self.events())

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock, for milliseconds only: nothing that waits for a scheduler or a rank belongs inside."""
        path = self.path / ".lock"
        busy = FvlaunchError(f"{path} has been held for {LOCK_WAIT_S:.0f} s by another command", hint="try again")
        with locks.held(path, LOCK_WAIT_S, busy):
            yield

    def write_record(self, record: Record) -> None:
        publish_json_somehow(self.record_file, sealed(asdict(replace(record, updated_at=time.time()))))

    def update(self, **changes: Any) -> Record:
        """Change fields of run.json under the lock."""
        with self.locked():
            record = replace(self.record(), **changes)
            self.write_record(record)
        return record

    def write_intent(self, want: Want, generation: int) -> None:
        publish_json_somehow(self.intent_file, sealed(asdict(Intent(want, generation))))

    def event(self, kind: str, **details: Any) -> None:
        """Append to events.jsonl; only the launcher may."""
        append_line(self.events_file, {"time": time.time(), "event": kind, **details})

    def events(self) -> list[dict[str, Any]]:
        return whole_events(read_lines(self.events_file))

    def current_attempt(self) -> dict[str, Any]:
        """Return which attempt is the current one, as its head says; empty where none was begun yet, or that can't be read just now."""
        value = read_json(self.attempt_file)
        return value if value is not None and CURRENT_ATTEMPT.fits(value) else {}

    def damage(self) -> list[str]:
        """Return what of its records cannot be used, a line each; run.json is told of wherever it is read."""
        found = [] if _INTENT.fits(read_json(self.intent_file)) else [f"{self.intent_file.name} {_why(self.intent_file, _INTENT)}"]
        logs = [self.attempt_log(number) for number in self.attempt_numbers()]
        return found + [mistake for path in (self.events_file, *logs) for mistake in mistakes_in_lines(path)]

    def attempt_log(self, number: int) -> Path:
        return self.attempts / f"{number:04d}.jsonl"

    def attempt_numbers(self) -> list[int]:
        try:
            stems = [entry.name[:-6] for entry in os.scandir(self.attempts) if entry.name.endswith(".jsonl")]
        except OSError:
            return []
        return sorted(int(stem) for stem in stems if stem.isdigit())

    def attempt_events(self, number: int) -> list[dict[str, Any]]:
        return whole_events(read_lines(self.attempt_log(number)))

    def rank_log(self, attempt: int, rank: int) -> Path:
        return self.logs / f"attempt-{attempt:04d}" / f"rank-{rank:04d}.log"

    def last_checkpoint_step(self) -> int | None:
        """Return the newest published checkpoint's step, by its name; whether it verifies is decided when it is loaded."""
        try:
            names = [entry.name for entry in os.scandir(self.checkpoints)]
        except OSError:
            return None
        steps = [int(n[5:]) for n in names if n.startswith("step-") and n[5:].isdigit()]
        return max(steps, default=None)


def _why(path: Path, shape: Shape) -> str:
    value = read_json(path)
    return why_unreadable(path) if value is None else shape.mistake(value)


def _intent_told_by(events: list[dict[str, Any]]) -> Intent:
    """Return the last wish that events tell of: a submission of a later generation forgets an earlier one's."""
    want: Want = "run"
    generation = 0
    for event in events:
        said = event.get("generation", max(generation, 1))
        if event["event"] in ("stop", "cancel"):
            want, generation = event["event"], said
        elif event["event"] == "submitted" and said > generation:
            want, generation = "run", said
    return Intent(want, generation)


def make_folder(path: Path, what: str) -> None:
    """Make the private folder of a run or a pipeline, which nobody else makes then; NameTaken where there is one of that name."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
    except FileExistsError as error:
        if error.filename in (path, str(path)):
            check_free(path, what)
        raise _cannot_make(path, what, error) from None
    except OSError as error:
        raise _cannot_make(path, what, error) from None


def check_free(path: Path, what: str) -> None:
    """Raise NameTaken where there is a run or a pipeline of that name."""
    if os.path.lexists(path):
        hint = f"choose another --name, or fvlaunch resume {path}"
        raise NameTaken(f"a {what} named {path.name!r} exists already: {path}", hint=hint) from None


def _cannot_make(path: Path, what: str, error: OSError) -> FvlaunchError:
    from trainers.config.os_errors import explain

    why = explain(error)
    words = why.message if why is not None else error.strerror
    hint = "--runs-dir or the cluster's runs_dir says where runs go"
    return FvlaunchError(f"cannot make the {what} directory {path}: {words}", hint=hint)


def create(path: Path, record: Record) -> Run:
    """Make a run directory that nobody else can read (it will hold pickles and logs); refuses a name that exists."""
    make_folder(path, "run")
    run = Run(path)
    try:
        for folder in (run.attempts, run.checkpoints, run.job, run.logs):
            folder.mkdir()
        overwrite_json(run.attempt_file, {}, room=ATTEMPT_ROOM)  # these two exist from the start: followers poll them
        overwrite_json(run.heartbeat_file, {})
        run.write_intent("run", record.generation)
        run.write_record(record)
    except BaseException as error:
        shutil.rmtree(path, ignore_errors=True)
        if isinstance(error, OSError):
            raise _cannot_make(path, "run", error) from None
        raise
    return run
