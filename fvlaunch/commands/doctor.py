"""Owns `fvlaunch doctor`: asks a cluster and this machine what they are, and prints the findings of diagnostics/site_checks.py.

Must not change anything: what it makes (a folder, a small job) is gone when it ends.
"""

from __future__ import annotations

from pathlib import Path

from ..config import lookup
from ..config.compose import compose_cluster
from ..diagnostics.examination import examine
from ..diagnostics.site_checks import Verdict, worst
from ..planning.planner import named_cluster
from . import output as printing


def doctor(cluster: str | None, *, json_: bool, node: bool, wait_s: float) -> int:
    """Print the findings; 1 where one of them is FAIL."""
    name = named_cluster("", cluster) or "local"
    profile = compose_cluster(name)
    findings = list(examine(profile, name if not lookup.is_path(name) else Path(name).stem, node=node, wait_s=wait_s))
    if json_:
        printing.as_json([{**vars(one), "verdict": str(one.verdict)} for one in findings])
    else:
        printing.table(["", "CHECK", "FOUND"], [[str(one.verdict), one.check, one.found] for one in findings])
        for one in findings:
            if one.cure and one.verdict is not Verdict.OK:
                printing.say(f"{one.check}: {one.cure}")
    return 1 if worst(findings) is Verdict.FAIL else 0
