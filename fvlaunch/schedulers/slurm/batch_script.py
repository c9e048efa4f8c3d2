"""Owns the text of a batch script: submitit's, with our setup block, sbatch options and what comes after srun. Must not run anything.

Values are quoted once, here; templates come from disk and values never become templates.
"""

from __future__ import annotations

import shlex
import sys
from typing import Any

from ..base import JobSpec
from ..python_processes import module_command
from ..setup_lines import guarded
from ..stub_modules import without

MEMORY_ERRORS = r"^(slurmstepd|srun):.*(oom.kill|out of memory|memory limit)|^MemoryError|: cannot allocate memory"
"""What Slurm, and Python, print where agents and not ranks were killed for want of memory."""
PASSING_ERRORS = (
    "timed out|connection|communication|node fail|launch failed|socket|temporarily|stale file handle|input/output error"
    "|already completing or completed|job is pending execution|slurm job [0-9]+ has expired"
)
"""What is printed where a start failed that may succeed the next time."""


def batch_script(job: JobSpec) -> str:
    """Return the text that sbatch gets. Writes nothing."""
    return str(_executor(job)._make_submission_file_text(_command(job), ""))


def _command(job: JobSpec) -> str:
    return shlex.join(module_command(job.python or sys.executable, "submitit.core._submit", str(job.folder), unbuffered=True))


def _executor(job: JobSpec) -> Any:
    with without("asyncio"):  # a twentieth of what submitting takes, for job objects that one may await; none is made here
        from submitit import SlurmExecutor

    class Executor(SlurmExecutor):  # type: ignore[misc]
        @classmethod
        def affinity(cls) -> int:
            return 2  # it writes text here; submitit asks for an srun on this machine, where --dry-run may have none

    executor = Executor(folder=job.folder)
    executor.update_parameters(
        job_name=job.name,
        nodes=job.nodes,
        ntasks_per_node=1,
        time=None,
        wckey=None,
        signal_delay_s=job.early_notice_s,
        stderr_to_stdout=True,
        setup=setup_block(job),
        teardown=teardown_block(job),
        srun_args=["--kill-on-bad-exit=0", *job.launcher_options],
        additional_parameters=sbatch_options(job),
    )
    return executor


def setup_block(job: JobSpec) -> list[str]:
    """Shell lines before srun."""
    values = {
        "given_up": shlex.quote(str(job.given_up or "/dev/null")),
        "code": shlex.quote(str(job.code)),
        "code_is_a_copy": job.code.parent in job.folder.parents,
        "folder": shlex.quote(str(job.folder)),
        "environment": {name: shlex.quote(value) for name, value in (job.environment or {}).items()},
        "traps": job.resubmits,
        "cpus_per_task": int((job.options or {}).get("cpus-per-task") or 0),
        "setup": guarded(job.setup, job.given_up),
    }
    return _rendered(job, "setup.sh.j2", values)


def teardown_block(job: JobSpec) -> list[str]:
    """Shell lines after srun: what the agents cannot do, or where none of them is left to act."""
    continue_by = "resubmit" if job.resubmits else "requeue"
    values = {
        "given_up": shlex.quote(str(job.given_up or "/dev/null")),
        "folder": shlex.quote(str(job.folder)),
        "token": job.token,
        "continue_by": continue_by,
        "starts": job.most_failed_starts,
        "out_of_memory": job.most_memory_failures,
        "memory_errors": shlex.quote(MEMORY_ERRORS),
        "passing_errors": shlex.quote(PASSING_ERRORS),
    }
    return _rendered(job, "teardown.sh.j2", values)


def _rendered(job: JobSpec, name: str, values: dict[str, Any]) -> list[str]:
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    return environment.from_string(job.template(name).read_text()).render(values).splitlines()


def sbatch_options(job: JobSpec) -> dict[str, Any]:
    """Return every sbatch option of the job by its long name; the token stands in the comment and in the working directory."""
    given = dict(job.options or {})
    comment = " ".join(part for part in (str(given.pop("comment", "") or ""), f"fvlaunch:{job.token}") if part)
    options = {name: value for name, value in given.items() if value is not None and value is not False}
    return {**options, "comment": comment, "chdir": str(job.folder), "requeue": True, "open-mode": "append"}
