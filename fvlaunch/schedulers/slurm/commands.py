"""Owns every call of squeue, sacct, scontrol, scancel and sbatch --test-only. Nothing else in the launcher may run them.

Must not decide: it asks, and answers in types. Commands are argv lists with a time limit. Silence is never taken for
"gone": no answer is SchedulerUnreachable, and a job that Slurm does not know is absent from the answer or None.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence

from ...errors import SchedulerRefused, SchedulerUnreachable
from .. import patience
from ..base import NoticeCause
from . import parsing as answers
from .parsing import AccountedJob, JobDetails, QueuedJob, TestOnly
from .states import explain, why_signalled

__all__ = [
    "AccountedJob",
    "JobDetails",
    "NoticeCause",
    "QueuedJob",
    "TestOnly",
    "accounted",
    "available",
    "can_ask",
    "can_spare",
    "cancel",
    "cluster_name",
    "environment",
    "exclude_node",
    "explain",
    "find_by_token",
    "hold",
    "hostnames",
    "job",
    "left_s",
    "now",
    "queue",
    "release",
    "requeue",
    "test_only",
    "until_end",
    "why_signalled",
]

TIMEOUT_S = 10.0
_LEAKING = re.compile(r"(SLURM|SBATCH|SRUN|SQUEUE|SALLOC|SACCT|SCANCEL|SCONTROL|SINFO)_")
NO_ANSWER = (  # "Unexpected message" is what scontrol requeue says when nobody listens
    "contact slurm controller|timed out|Unexpected message received|Zero Bytes were transmitted|[Cc]onnection (refused|failure|reset)"
    "|standby mode|configuration source|fetch_config|[Aa]uthentication|[Mm]unge|talking to the database|slurm_persist_conn"
    "|[Tt]emporarily un(available|able)|not responding|[Bb]roken pipe|Transport endpoint|Host is down|(No route to|resolve) host"
    "|Network is unreachable|name resolution|[Cc]ommunication (connection|failure)|Header lengths|Insane message length"
)
PING_HINT = "`scontrol ping` tells whether the controller is up"
_MUNGE_HINT = "munged does not run on this machine, or its socket cannot be reached: `munge -n` tells; ask the administrators"
_NO_SUCH_JOB = "Invalid job id"
_NO_ACCOUNTING = "accounting storage is disabled"


def environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for a call: what a surrounding job or a person set for Slurm's commands is left out, but where Slurm is."""
    source = os.environ if base is None else base
    return {key: value for key, value in source.items() if key == "SLURM_CONF" or not _LEAKING.match(key)}


def available() -> bool:
    return shutil.which("sbatch") is not None


def can_ask() -> bool:
    """Return whether Slurm's programs are here: many containers lack them."""
    return shutil.which("scontrol") is not None


# --- asking


def queue(job_ids: Iterable[str] | None = None, timeout_s: float = TIMEOUT_S) -> dict[str, QueuedJob]:
    """My jobs that squeue knows, in one call; of `job_ids` only where given. Absent means unknown, which is not gone."""
    form = answers.QUEUE_FIELDS.replace(",", f":{answers.FIELD},") + f":{answers.RECORD}"
    done = _run(["squeue", "--me", "--all", "--noheader", "--states=all", "-O", form], timeout_s)
    if done.returncode:
        raise _unreachable(done)
    found = answers.parse_queue(done.stdout)
    return found if job_ids is None else {job_id: found[job_id] for job_id in job_ids if job_id in found}


def job(job_id: str, timeout_s: float = TIMEOUT_S) -> JobDetails | None:
    """Return all about one job; None where Slurm does not know it (any more)."""
    done = _run(["scontrol", "show", "job", _checked(job_id)], timeout_s)
    if done.returncode == 0:
        return answers.parse_details(done.stdout)
    if _NO_SUCH_JOB in done.stderr:
        return None
    raise _unreachable(done)


def left_s(job_id: str, timeout_s: float = TIMEOUT_S) -> float | None:
    """Return in how many seconds a running job must end; None without a limit, or when it does not run."""
    found = job(job_id, timeout_s)
    return until_end(found, timeout_s) if found is not None and found.state == "RUNNING" else None


def until_end(found: JobDetails, timeout_s: float = TIMEOUT_S) -> float | None:
    """Return in how many seconds a job must end; None without a limit. What Slurm's programs print of that is by this machine's clock."""
    if found.end_at is None:
        return None
    with contextlib.suppress(SchedulerUnreachable):
        return found.end_at - now(timeout_s)
    return found.end_at - time.time()


def now(timeout_s: float = TIMEOUT_S) -> float:
    """Return slurmctld's time (seconds since 1970): that of the machine which asks may be wrong, or jump."""
    done = _run(["scontrol", "show", "config"], timeout_s)
    told = re.match(r"Configuration data as of (\d+)\n", done.stdout)
    if done.returncode or told is None:
        raise _unreachable(done)
    return float(told[1])


def accounted(job_ids: Iterable[str], timeout_s: float = TIMEOUT_S, *, since: int | None = None) -> dict[str, list[AccountedJob]] | None:
    """Return every life of the jobs, oldest first; None where this site keeps no accounts. Costs ten times squeue: never in a loop.

    With `since` (seconds since 1970) all my jobs of that time, for more ids than a command line holds.
    """
    ids = [_checked(job_id) for job_id in job_ids]
    if since is not None:
        start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since))
        return _sacct([f"--starttime={start}", f"--uid={os.geteuid()}"], timeout_s)
    return _sacct([f"--jobs={','.join(ids)}"], timeout_s) if ids else {}


def _sacct(which: Sequence[str], timeout_s: float) -> dict[str, list[AccountedJob]] | None:
    if shutil.which("sacct") is None:
        return None
    shape = ["--duplicates", "--allocations", "--noheader", "--parsable2", f"--delimiter={answers.FIELD}"]
    done = _run(["sacct", *shape, f"--format={answers.ACCOUNT_FIELDS}", *which], timeout_s)
    if done.returncode == 0:
        return answers.parse_accounted(done.stdout)
    if _NO_ACCOUNTING in done.stderr:
        return None
    raise _unreachable(done)


def find_by_token(token: str, timeout_s: float = TIMEOUT_S) -> list[str]:
    """Jobs of mine with the token in their comment or working directory: squeue's, else those of the last days in the accounts.

    One that sbatch refused is none, though Slurm may keep a record of it, as FAILED without ever having had a node.
    """
    mine = [one for one in queue(timeout_s=timeout_s).values() if token in one.comment or token in one.work_dir]
    found = [one.job_id for one in mine if (one.state, one.nodes) != ("FAILED", "")]
    if not found:
        try:
            lives = (_sacct(["--starttime=now-3days", f"--uid={os.geteuid()}"], timeout_s) or {}).values()
        except SchedulerUnreachable:  # the accounts lag and fail by themselves; a job just taken is squeue's to know
            return []
        all_mine = [one for job_lives in lives for one in job_lives if token in one.comment or token in one.work_dir]
        found = [one.job_id for one in all_mine if (one.state, one.nodes) != ("FAILED", "")]
    return list(dict.fromkeys(found))


def cluster_name(timeout_s: float = TIMEOUT_S) -> str | None:
    """Return what the Slurm that answers here calls itself."""
    done = _run(["scontrol", "show", "config"], timeout_s)
    if done.returncode:
        raise _unreachable(done)
    found = re.search(r"^ClusterName\s*=\s*(\S+)", done.stdout, re.MULTILINE)
    return found[1] if found else None


def hostnames(nodes: str, timeout_s: float = TIMEOUT_S) -> list[str]:
    """Return each node of a list like "n[1-3],m7"."""
    done = _run(["scontrol", "show", "hostnames", _checked_nodes(nodes)], timeout_s)
    if done.returncode:
        raise _unreachable(done)
    return done.stdout.split()


def test_only(argv: Sequence[str], timeout_s: float = TIMEOUT_S) -> TestOnly:
    """Ask whether Slurm would take `sbatch ARGV`; nothing is submitted."""
    done = _run(["sbatch", "--test-only", *argv], timeout_s, dates=False)
    if done.returncode and re.search(NO_ANSWER, done.stderr):
        raise _unreachable(done)
    return answers.parse_test_only(done.returncode, done.stderr)


test_only.__test__ = False  # type: ignore[attr-defined]  # not a test, whatever pytest thinks of the name


# --- telling


def requeue(job_id: str, timeout_s: float = TIMEOUT_S) -> bool:
    """Have the job run again from its script's start; False where Slurm does not know it. One that waits already counts as done.

    It also revives a job that was cancelled or has ended: ask `why_signalled` first.
    """
    return _tell(["scontrol", "requeue", _checked(job_id)], timeout_s, done_already="pending execution")


def exclude_node(job_id: str, node: str, timeout_s: float = TIMEOUT_S) -> bool:
    """Keep the job off a node in its next lives, besides those it is kept off already. False where Slurm does not know the job.

    Only a waiting job can be changed, so: requeue first, then this. It is refused for a running one.
    """
    found = job(job_id, timeout_s)
    if found is None:
        return False
    nodes = [part for part in found.excluded_nodes.split(",") if part]
    if _checked_nodes(node) in nodes:
        return True
    return _tell(["scontrol", "update", f"jobid={job_id}", f"ExcNodeList={','.join([*nodes, node])}"], timeout_s)


def can_spare(job_id: str, node: str, num_nodes: int, timeout_s: float = TIMEOUT_S) -> bool:
    """Return whether so many nodes are left in the job's partition without this one and those it is kept off already."""
    found = job(job_id, timeout_s)
    if found is None:
        return False
    without = ",".join(part for part in (found.excluded_nodes, _checked_nodes(node)) if part)
    answer = test_only([f"--partition={found.partition}", f"--nodes={num_nodes}", f"--exclude={without}", "--wrap=true"], timeout_s)
    return answer.accepted or "node configuration is not available" not in answer.reason


def hold(job_id: str, timeout_s: float = TIMEOUT_S) -> bool:
    """Keep a waiting job from starting."""
    return _tell(["scontrol", "hold", _checked(job_id)], timeout_s)


def release(job_id: str, timeout_s: float = TIMEOUT_S) -> bool:
    """Let a held job wait for its start like any other."""
    return _tell(["scontrol", "release", _checked(job_id)], timeout_s)


def cancel(job_id: str, signal: str | None = None, *, batch: bool = False, timeout_s: float = TIMEOUT_S) -> bool:
    """End the job, or only signal it ("USR2"): its steps, with `batch` its batch shell instead.

    False: nobody got the signal, as the job does not run. Ending an unknown or ended job is no error to Slurm, hence True.
    """
    if signal is None:
        return _tell(["scancel", _checked(job_id)], timeout_s)
    found = job(job_id, timeout_s)  # scancel would wait for minutes for a waiting job to start
    if found is None or found.state != "RUNNING":
        return False
    return _tell(["scancel", f"--signal={signal}", *(["--batch"] if batch else []), job_id], timeout_s)


def _tell(argv: list[str], timeout_s: float, done_already: str | None = None) -> bool:
    done = _run(argv, timeout_s)
    if done.returncode == 0 or (done_already and done_already in done.stderr):
        return True
    if _NO_SUCH_JOB in done.stderr:
        return False
    if re.search(NO_ANSWER, done.stderr):
        raise _unreachable(done)
    raise SchedulerRefused(f"{' '.join(argv)}: {_said(done)}", hint=_hint(done.stderr))


def _hint(stderr: str) -> str:
    if "presently disabled" in stderr:
        return "the job was submitted with --no-requeue"
    if "no longer pending" in stderr:
        return "only a waiting job can be changed: requeue it first"
    return ""


def _run(argv: list[str], timeout_s: float, *, dates: bool = True) -> subprocess.CompletedProcess[str]:
    """One call. The caller reads the return code; here only what never became an answer is an error."""
    env = {**environment(), "LC_ALL": "C", **({"SLURM_TIME_FORMAT": "%s"} if dates else {})}
    try:
        with patience.waiting(f"Slurm has not answered {argv[0]}", timeout_s):
            return subprocess.run(
                argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False
            )
    except subprocess.TimeoutExpired:
        raise SchedulerUnreachable(f"{argv[0]} gave no answer within {timeout_s:g} s", hint=PING_HINT) from None
    except OSError as error:
        reason = "is not on PATH" if isinstance(error, FileNotFoundError) else f"could not be run: {error.strerror}"
        raise SchedulerUnreachable(f"{argv[0]} {reason}", hint="is this a machine of the cluster?") from None


def _unreachable(done: subprocess.CompletedProcess[str]) -> SchedulerUnreachable:
    said = _said(done)
    return SchedulerUnreachable(f"{done.args[0]}: {said}", hint=hint_of_silence(said))


def hint_of_silence(said: str) -> str:
    """Return how a person finds out why nobody answered."""
    return _MUNGE_HINT if "munge" in said.lower() else PING_HINT


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return answers.complaint(done.stderr or done.stdout) or f"ended with {done.returncode}"


def _checked(job_id: str) -> str:
    """Return the id, if it is one: it comes from a file that may have been edited, and must not become an option."""
    if not re.fullmatch(r"\d+([_+]\d+)?", job_id, re.ASCII):
        raise SchedulerRefused(f"{job_id!r} is not a job id")
    return job_id


def _checked_nodes(nodes: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w.,\[\]-]*", nodes, re.ASCII):
        raise SchedulerRefused(f"{nodes!r} is not a list of nodes")
    return nodes
