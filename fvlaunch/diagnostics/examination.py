"""Owns asking a cluster, a node and this machine what they are, one finding after the other.

Must not print, and must not leave anything behind: what it makes (a folder, a small job) is gone when it ends.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..config import secrets as secret_values
from ..config.schema import Cluster
from ..errors import FvlaunchError
from ..runs import registry
from ..runs.attempts import read_attempts
from ..schedulers.registry import scheduler
from ..schedulers.slurm import commands as slurm
from ..schedulers.slurm import site as slurm_site
from . import node_probe
from .site_checks import Finding, Site, Verdict, check_environment, check_gpus, check_node, check_site, worst

_RUNS = 30
_LITTLE = 50e9


def examine(cluster: Cluster, name: str, *, node: bool, wait_s: float) -> Iterator[Finding]:
    """Yield finding after finding; that something cannot be asked is one of them."""
    folder = list(_folder(Path(cluster.runs_dir or "runs")))
    yield from folder
    yield from _secrets(cluster)
    chosen = scheduler(cluster.executor)
    yield from check_environment({**os.environ, **cluster.env} if chosen.runs_here else cluster.env, _nodes(cluster))
    if chosen.takes_sbatch_options:
        yield from _slurm(cluster, name, node=node and worst(folder) is not Verdict.FAIL, wait_s=wait_s)
    elif node and worst(folder) is not Verdict.FAIL:
        yield from check_node(node_probe.look_here(cluster), _here(), wants_gpu=False, resubmits=True)


def _slurm(cluster: Cluster, name: str, *, node: bool, wait_s: float) -> Iterator[Finding]:
    if not slurm.available():
        yield Finding("Slurm", Verdict.FAIL, "sbatch is not on PATH", "run doctor on a login node of the cluster")
        return
    try:
        config, partitions = slurm_site.config(), slurm_site.partitions()
    except FvlaunchError as error:
        yield Finding("Slurm", Verdict.FAIL, error.message, error.hint)
        return
    yield Finding("Slurm", Verdict.OK, f"{config.get('ClusterName', '?')}, version {config.get('SLURM_VERSION', '?')}")
    for variable in ("SLURM_CLUSTERS", "SBATCH_CLUSTERS"):
        if os.environ.get(variable, config.get("ClusterName")) != config.get("ClusterName"):
            found = f"{variable}={os.environ[variable]} names another cluster, and jobs go to this one"
            yield Finding("Slurm", Verdict.WARN, found, f"unset {variable}: submit refuses it")
    problem = slurm_site.accounts_problem() if config.get("AccountingStorageType", "").endswith("/slurmdbd") else ""
    yield from check_site(Site(cluster, config, partitions, measured_save(name), problem))
    yield from check_gpus(cluster)
    if node:
        yield from _node(cluster, wait_s)


def _node(cluster: Cluster, wait_s: float) -> Iterator[Finding]:
    try:
        answer = node_probe.look_at_a_node(cluster, wait_s)
    except FvlaunchError as error:
        yield Finding("a node", Verdict.FAIL, error.message, error.hint or "the profile's slurm options")
        return
    if answer is None:
        yield Finding("a node", Verdict.WARN, f"none was free within {wait_s:g} s", "--wait-s N waits longer; --no-node does without")
        return
    if not answer.get("error"):
        yield Finding("shared folder", Verdict.OK, "what a node writes into runs_dir is seen here")
    wants_gpu = bool(cluster.gpus_of_a_node(None, 1))
    yield from check_node(answer, _here(), wants_gpu, resubmits=cluster.continue_by == "resubmit")
    yield from check_environment(answer.get("nccl", {}), 1)


def _here() -> dict[str, Any]:
    try:
        return {"torch": importlib.metadata.version("torch")}
    except importlib.metadata.PackageNotFoundError:
        return {}


def _nodes(cluster: Cluster) -> int:
    """Say whether runs on this cluster may have several nodes."""
    return 2 if not scheduler(cluster.executor).runs_here and (cluster.default_ranks_per_node() or 1) > 1 else 1


def _folder(folder: Path) -> Iterator[Finding]:
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK | os.X_OK):
        yield Finding(
            "runs_dir",
            Verdict.FAIL,
            f"{folder}: {there} cannot be written",
            "the profile's runs_dir: a folder of yours that all nodes share",
        )
        return
    free = shutil.disk_usage(there).free
    message = f"{folder}: {free / 1e9:.0f} GB free"
    if free < _LITTLE:
        yield Finding("runs_dir", Verdict.WARN, message, "checkpoints of one run can need more: fvlaunch prune, or another runs_dir")
    else:
        yield Finding("runs_dir", Verdict.OK, message)


def _secrets(cluster: Cluster) -> Iterator[Finding]:
    for name in cluster.secrets:
        where = secret_values.where(name)
        if where is None:
            yield Finding(
                "secrets", Verdict.WARN, f"{name} is not set", f"export {name}=…, or a file of mode 0600: {secret_values.file(name)}"
            )
        else:
            yield Finding("secrets", Verdict.OK, f"{name}: {where}")


def measured_save(cluster: str) -> float | None:
    """Return the longest save, in seconds, of the newest runs on a cluster."""
    runs = [run for run in registry.known([Path("runs")]) if run.record().cluster == cluster][-_RUNS:]
    return max((a.save_s for run in runs for a in read_attempts(run) if a.save_s is not None), default=None)
