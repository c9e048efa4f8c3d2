"""Owns the text of a batch script beside what submitit writes: the setup block and the sbatch options. Must not run anything.

Values are quoted once, here; templates come from disk and values never become templates.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ..config.lookup import template
from ..planning.plan import Plan


def setup_block(plan: Plan, folder: Path, code: Path) -> list[str]:
    """Shell lines before srun."""
    values = {
        "code": shlex.quote(str(code)),
        "folder": shlex.quote(str(folder)),
        "environment": {name: shlex.quote(value) for name, value in plan.env.items()},
        "traps": plan.cluster.get("continue_by") == "resubmit",
        "cpus_per_task": int(plan.sbatch.get("cpus-per-task") or 0),
        "setup": plan.setup.strip(),
    }
    return _rendered("setup.sh.j2", values)


def teardown_block(plan: Plan, folder: Path, token: str) -> list[str]:
    """Shell lines after srun: what the agents cannot do, or where none of them is left to act."""
    values = {"folder": shlex.quote(str(folder)), "token": token, "continue_by": plan.cluster.get("continue_by", "requeue")}
    return _rendered("teardown.sh.j2", values)


def _rendered(name: str, values: dict[str, Any]) -> list[str]:
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    return environment.from_string(template(name).read_text()).render(values).splitlines()


def sbatch_options(plan: Plan, folder: Path, token: str) -> dict[str, Any]:
    """Every sbatch option of the job by its long name; the token stands in the comment and in the working directory."""
    asked = dict(plan.sbatch)
    comment = " ".join(part for part in (str(asked.pop("comment", "") or ""), f"fvlaunch:{token}") if part)
    options = {name: value for name, value in asked.items() if value is not None and value is not False}
    return {**options, "comment": comment, "chdir": str(folder), "requeue": True, "open-mode": "append"}
