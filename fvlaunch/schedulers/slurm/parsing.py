"""Owns what Slurm's answers look like: text of squeue, scontrol, sacct and sbatch to typed values. Pure: it runs nothing.

Never JSON, whose shape differs by version. Times are asked for with SLURM_TIME_FORMAT=%s, so they are seconds since 1970.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

FIELD, RECORD = "\x1f", "\x1e"
QUEUE_FIELDS = (  # as squeue -O has them
    "JobID,Name,State,Reason,NodeList,SubmitTime,StartTime,EndTime,TimeLeft,RestartCnt,Partition,exit_code,PriorityLong,Comment,WorkDir"
)
ACCOUNT_FIELDS = "JobID,State,ExitCode,Submit,Start,End,NodeList,WorkDir,JobName,Comment"
_FREE_TEXT = ("JobName", "Command", "WorkDir", "Comment", "AdminComment", "SystemComment", "StdErr", "StdIn", "StdOut")
"""Keys of scontrol whose value runs to the end of the line, whatever is in it."""


@dataclass(frozen=True)
class QueuedJob:
    """A job that squeue knows: waiting, running, or ended a short while ago (MinJobAge, 300 s by default)."""

    job_id: str
    name: str
    state: str
    reason: str
    nodes: str
    submitted_at: int | None
    start_at: int | None
    """Of this life; of a job that waits, Slurm's guess or its earliest time."""
    end_at: int | None
    time_left_s: int | None
    """None: no limit, or not running."""
    restarts: int
    partition: str
    exit_code: str
    """Code and signal, as in "0:15"."""
    priority: int | None
    """0: held."""
    comment: str
    work_dir: str


@dataclass(frozen=True)
class AccountedJob:
    """One life of a job, as slurmdbd has it: up to 2 s late, and squeue is right where they differ."""

    job_id: str
    state: str
    """One word, "CANCELLED" for "CANCELLED by 1000"."""
    exit_code: str
    submitted_at: int | None
    start_at: int | None
    end_at: int | None
    nodes: str
    work_dir: str
    name: str
    comment: str


@dataclass(frozen=True)
class JobDetails:
    """All that `scontrol show job` tells and somebody here needs."""

    job_id: str
    name: str
    state: str
    reason: str
    restarts: int
    exit_code: str
    requeue: bool
    submitted_at: int | None
    start_at: int | None
    end_at: int | None
    """Of a running job its limit, and the end of the grace time once it is being preempted. None: no limit known."""
    preempted_at: int | None
    nodes: str
    excluded_nodes: str
    partition: str
    work_dir: str
    comment: str
    output: str


@dataclass(frozen=True)
class TestOnly:
    """sbatch --test-only: whether Slurm would take the job, when it would start (Slurm's own text), or why not."""

    __test__ = False  # not a test, whatever pytest thinks of the name
    accepted: bool
    start: str
    reason: str


def parse_queue(text: str) -> dict[str, QueuedJob]:
    """squeue -O with FIELD after each field and RECORD after the last one: a comment may hold any other character."""
    found = {}
    for record in text.split(RECORD):
        fields = [_text(value) for value in record.lstrip("\n").split(FIELD)]
        if len(fields) > 14:
            job = _queued(fields)
            found[job.job_id] = job
    return found


def _queued(fields: list[str]) -> QueuedJob:
    job_id, name, state, reason, nodes, submitted, start, end, left, restarts, partition, code, priority, *rest = fields
    comment, work_dir = FIELD.join(rest[:-1]), rest[-1]
    seconds, again = duration_s(left) if state == "RUNNING" else None, _number(restarts) or 0
    times = _number(submitted), _number(start), _number(end)
    return QueuedJob(
        job_id, name, state, reason, nodes, *times, seconds, again, partition, _exit_code(code), _number(priority), comment, work_dir
    )


def _exit_code(text: str) -> str:
    """squeue prints what wait() returned: 768 is 3:0, and 15 is 0:15."""
    status = _number(text)
    return text if status is None else f"{status >> 8 & 255}:{status & 127}"


def parse_accounted(text: str) -> dict[str, list[AccountedJob]]:
    """sacct -D -X -n -P: the lives of each job, oldest first. Lines that are the rest of a comment are passed over."""
    found: dict[str, list[AccountedJob]] = {}
    for line in text.split("\n"):
        fields = line.split(FIELD)
        if len(fields) >= 10 and re.fullmatch(r"\d+\S*", fields[0]):
            job = _accounted(fields)
            found.setdefault(job.job_id, []).append(job)
    return found


def _accounted(fields: list[str]) -> AccountedJob:
    job_id, state, code, submitted, start, end, nodes, work_dir, name = fields[:9]
    word = state.split(" ")[0].rstrip("+")
    nodes = "" if nodes == "None assigned" else nodes
    return AccountedJob(job_id, word, code, _number(submitted), _number(start), _number(end), nodes, work_dir, name, FIELD.join(fields[9:]))


def parse_details(text: str) -> JobDetails | None:
    """scontrol show job, one record over several lines (the one-line form cannot be read where a job's name holds "Key=")."""
    facts: dict[str, str] = {}
    for key, value in _pairs(text):
        facts.setdefault(key, _text(value))  # the first wins: what a comment's second line pretends to be comes too late
    if not facts.get("JobId"):
        return None
    return JobDetails(
        job_id=facts["JobId"],
        name=facts.get("JobName", ""),
        state=facts.get("JobState", ""),
        reason="" if facts.get("Reason") == "None" else facts.get("Reason", ""),
        restarts=_number(facts.get("Restarts", "")) or 0,
        exit_code=facts.get("ExitCode", ""),
        requeue=facts.get("Requeue") == "1",
        submitted_at=_number(facts.get("SubmitTime", "")),
        start_at=_number(facts.get("StartTime", "")),
        end_at=_number(facts.get("EndTime", "")),
        preempted_at=_number(facts.get("PreemptTime", "")),
        nodes=facts.get("NodeList", ""),
        excluded_nodes=facts.get("ExcNodeList", ""),
        partition=facts.get("Partition", ""),
        work_dir=facts.get("WorkDir", ""),
        comment=facts.get("Comment", ""),
        output=facts.get("StdOut", ""),
    )


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for line in text.split("\n"):
        rest = line.strip(" ")
        while found := re.match(r"([A-Za-z][\w/:.&]*)=(.*)", rest):
            key, value = found[1], found[2]
            if key in _FREE_TEXT:
                yield key, value
                break
            value, _, rest = value.partition(" ")
            yield key, value
            rest = rest.lstrip(" ")


def parse_test_only(returncode: int, stderr: str) -> TestOnly:
    """Its answer is on stderr. The start is handed on as Slurm wrote it: its form is the site's."""
    lines = [re.sub(r"^(sbatch: )?(error: |allocation failure: )?", "", line.strip()) for line in stderr.strip().splitlines()]
    start = re.search(r"to start at (.+?) using", stderr)
    if returncode == 0:
        return TestOnly(True, start[1] if start else "", "")
    return TestOnly(False, "", "; ".join(dict.fromkeys(lines)) or f"sbatch ended with {returncode}")


_CAUSES = re.compile(r"munge \w+ failed|failed to access|permission denied|connection refused|unable to contact", re.IGNORECASE)
_ADVICE = re.compile(r"if munged is up, restart", re.IGNORECASE)


def complaint(text: str) -> str:
    """Return all that a command of Slurm's said when it failed, in one line: the cause first, advice for another cause last."""
    lines = (re.sub(r"^\w+: (error|fatal): |^slurm_\w+ error: ", "", line.strip()) for line in text.splitlines())
    kept = dict.fromkeys(line for line in lines if line)
    return "; ".join(sorted(kept, key=lambda line: 2 if _ADVICE.search(line) else 0 if _CAUSES.search(line) else 1))


def parse_version(text: str) -> tuple[int, ...] | None:
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in found.groups() if part is not None) if found else None


def duration_s(text: str) -> int | None:
    """Slurm's [days-]hours:minutes:seconds, also shortened to minutes:seconds; None for UNLIMITED, INVALID and the like."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _number(text: str) -> int | None:
    """Return a count or a time; None for N/A, NONE, None, Unknown, UNLIMITED."""
    return int(text) if re.fullmatch(r"\d+", text) else None


def _text(value: str) -> str:
    return "" if value in ("(null)", "N/A", "n/a") else value
