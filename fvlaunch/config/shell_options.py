"""Owns which variables of the shell are options to sbatch, and which options they are. Pure: the environment is given.

sbatch lets these variables win over its script without a word. fvlaunch hides them from it, takes them in as a layer of their own, and
tells each; planning decides what wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .sbatch_options import FLAGS, KNOWN, MAYBE_FLAGS, REFUSED

_OTHER_NAMES = {
    "ARRAY_INX": "array", "BURST_BUFFER": "bb", "CPU_FREQ_REQ": "cpu-freq", "DEBUG": "verbose", "MEM_PER_NODE": "mem",
    "REQ_SWITCH": "switches", "SEGMENT_SIZE": "segment", "TIMELIMIT": "time",
}  # fmt: skip
_SAME_NAMES = (
    "ACCOUNT", "ACCTG_FREQ", "BATCH", "CLUSTERS", "CLUSTER_CONSTRAINT", "CONSTRAINT", "CONTAINER", "CONTAINER_ID", "CORE_SPEC",
    "CPUS_PER_GPU", "DELAY_BOOT", "DEPENDENCY", "DISTRIBUTION", "ERROR", "EXCLUSIVE", "EXPORT", "GET_USER_ENV", "GPUS", "GPUS_PER_NODE",
    "GPUS_PER_SOCKET", "GPUS_PER_TASK", "GPU_BIND", "GPU_FREQ", "GRES", "GRES_FLAGS", "HINT", "IGNORE_PBS", "INPUT", "JOB_NAME",
    "MEM_BIND", "MEM_PER_CPU", "MEM_PER_GPU", "NETWORK", "NO_KILL", "NO_REQUEUE", "OPEN_MODE", "OUTPUT", "OVERCOMMIT", "PARTITION",
    "POWER", "PROFILE", "QOS", "REQUEUE", "RESERVATION", "SIGNAL", "SPREAD_JOB", "THREADS_PER_CORE", "THREAD_SPEC", "TRES_BIND",
    "TRES_PER_TASK", "USE_MIN_NODES", "WAIT", "WAIT_ALL_NODES", "WCKEY",
)  # fmt: skip
VARIABLES: dict[str, str] = {
    **{f"SBATCH_{name}": name.lower().replace("_", "-") for name in _SAME_NAMES},
    **{f"SBATCH_{name}": option for name, option in _OTHER_NAMES.items()},
    "SBATCH_WAIT4SWITCH": "switches",
    "SLURM_CLUSTERS": "clusters",
}
"""Variable -> the option that sbatch takes it for: those of Slurm 20.11 to 25.05."""


class ShellOption(NamedTuple):
    """An option that a variable of the shell gives."""

    variable: str
    text: str
    """The variable's value."""
    option: str
    value: str | bool
    ignored: str
    """Why fvlaunch does not take it; empty where it does."""

    def __str__(self) -> str:
        return f"{self.variable}={self.text}"


def from_shell(environment: Mapping[str, str]) -> list[ShellOption]:
    """Return the options that the shell gives, and those that it may be meant to give, by variable."""
    found = (_option(variable, text) for variable, text in sorted(environment.items()) if variable in VARIABLES or _is_meant(variable))
    return [one for one in found if one is not None]


def _option(variable: str, text: str) -> ShellOption | None:
    if variable not in VARIABLES:
        right = next((name for name, option in VARIABLES.items() if option == _plain(variable)), None)
        ignored = "sbatch reads no such variable" + (f" (it reads {right})" if right else "")
        return ShellOption(variable, text, _plain(variable), text, ignored)
    option = VARIABLES[variable]
    if not text and option not in FLAGS | MAYBE_FLAGS:
        return None
    if variable == "SBATCH_WAIT4SWITCH":
        return ShellOption(variable, text, option, text, "it is no option of its own: write switches: N@TIME")
    value = True if option in FLAGS or not text else text  # sbatch does not look at what a flag's variable holds
    return ShellOption(variable, text, option, value, REFUSED.get(option, ""))


def _plain(variable: str) -> str:
    return variable.removeprefix("SBATCH_").lower().replace("_", "-")


def _is_meant(variable: str) -> bool:
    """Say whether a variable has the name of an option, though sbatch does not read it, such as SBATCH_TIME."""
    return variable.startswith("SBATCH_") and _plain(variable) in KNOWN | REFUSED.keys()
