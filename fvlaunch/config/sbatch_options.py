"""Owns which sbatch options a profile or a command line may carry, and the values they may have. Pure: nothing is run.

Options go by their long names with hyphens. Values end up in a batch script, so what is not plainly a value is refused.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from ..schedulers.slurm import gpu_counts
from .values import BOOLEAN_HINT, CONTROL, SECRET_NAME, TIME_HINT, WORD, boolean, time_text

Value = str | int | bool

FLAGS = frozenset(
    {
        "contiguous", "hold", "ignore-pbs", "overcommit", "oversubscribe", "reboot", "spread-job", "use-min-nodes",
    }
)  # fmt: skip
"""Options without a value."""
MAYBE_FLAGS = frozenset(
    {
        "exclusive", "get-user-env", "nice", "no-kill", "propagate",
    }
)  # fmt: skip
"""Options with or without a value."""
_COUNTS = frozenset({"nice", "get-user-env"})
"""Of these the options whose value is a number: 1 and 0 are no switches there."""
WITH_VALUE = frozenset(
    {
        "account", "acctg-freq", "batch", "bb", "bbf", "begin", "burst-buffer", "cluster-constraint", "comment", "constraint", "container",
        "container-id", "core-spec", "cores-per-socket", "cpu-freq", "cpus-per-gpu", "cpus-per-task", "deadline", "delay-boot",
        "dependency", "distribution", "exclude", "export", "export-file", "extra", "extra-node-info", "gid", "gpu-bind", "gpu-freq", "gpus",
        "gpus-per-node", "gpus-per-socket", "gpus-per-task", "gres", "gres-flags", "hint", "input", "kill-on-invalid-dep", "licenses",
        "mail-type", "mail-user", "mcs-label", "mem", "mem-bind", "mem-per-cpu", "mem-per-gpu", "mincpus", "network", "nodefile",
        "nodelist", "partition", "power", "prefer", "priority", "profile", "qos", "reservation", "resv-ports", "segment",
        "sockets-per-node", "switches", "thread-spec", "threads-per-core", "time", "time-min", "tmp", "tres-bind", "tres-per-task", "uid",
        "wait-all-nodes", "wckey",
    }
)  # fmt: skip
_UNQUOTED_COMMA = re.compile(r""",(?=(?:[^'"]|'[^']*'|"[^"]*")*$)""")
_YES_OR_NO = frozenset({"kill-on-invalid-dep"})
"""Options whose value is the word yes or no: false is not the same as not given."""
KNOWN = FLAGS | MAYBE_FLAGS | WITH_VALUE

_GEOMETRY = "fvlaunch starts one agent on each node; say ranks_per_node here and --ranks or --nodes at submission"
REFUSED = {
    "job-name": "the job is named after the run; use --name",
    "output": "logs are kept in the run directory",
    "error": "logs are kept in the run directory",
    "chdir": "the job works in its run directory",
    "ntasks": _GEOMETRY,
    "nodes": _GEOMETRY,
    "ntasks-per-node": _GEOMETRY,
    "ntasks-per-core": _GEOMETRY,
    "ntasks-per-gpu": _GEOMETRY,
    "ntasks-per-socket": _GEOMETRY,
    "signal": "the notice comes limits.notice_lead_s before the end, by default computed from the measured save time",
    "requeue": "fvlaunch decides what is requeued",
    "no-requeue": "fvlaunch decides what is requeued; limits says how often",
    "open-mode": "logs are always appended to",
    "array": "one run is one job; submit several runs",
    "dependency": "a dependency belongs to one submission; use -d on the command line",
    "wrap": "the batch script is fvlaunch's",
    "parsable": "fvlaunch reads sbatch's answer itself; use --json",
    "quiet": "fvlaunch reads sbatch's answer itself",
    "verbose": "fvlaunch reads sbatch's answer itself",
    "test-only": "it belongs to one submission; use --test-only on the command line",
    "wait": "use --wait on the command line",
    "clusters": "jobs go to the Slurm cluster that this machine's configuration names; work on a login node of the other one",
    "tres-per-node": "write gpus-per-node, or gres",
}
"""What cannot be given, and why; but for UNKNOWN_HERE fvlaunch sets it itself."""
UNKNOWN_HERE = frozenset({"clusters", "tres-per-node"})
"""Options that fvlaunch does not take, and does not set either."""

SHORT = {
    "A": "account", "p": "partition", "t": "time", "q": "qos", "w": "nodelist", "x": "exclude", "C": "constraint", "d": "dependency",
    "N": "nodes", "n": "ntasks", "c": "cpus-per-task", "G": "gpus", "J": "job-name", "o": "output", "e": "error", "b": "begin",
    "L": "licenses", "a": "array", "D": "chdir", "S": "core-spec", "H": "hold", "s": "oversubscribe", "M": "clusters", "k": "no-kill",
    "B": "extra-node-info", "F": "nodefile", "i": "input", "m": "distribution", "O": "overcommit", "Q": "quiet", "v": "verbose",
    "W": "wait",
    "time-limit": "time", "timelimit": "time", "queue": "partition", "memory": "mem", "gpus-per-host": "gpus-per-node", "walltime": "time",
}  # fmt: skip
_FORMS = {
    **dict.fromkeys(("account", "partition", "qos", "reservation", "wckey", "mcs-label"), WORD),
    **dict.fromkeys(("mem", "mem-per-cpu", "mem-per-gpu", "tmp"), re.compile(r"\d+[KMGT]?B?", re.IGNORECASE)),
    **dict.fromkeys(("cpus-per-task", "cpus-per-gpu", "mincpus", "core-spec", "threads-per-core"), re.compile(r"[1-9]\d{0,6}")),
    **dict.fromkeys(("nodelist", "exclude"), re.compile(r"[A-Za-z0-9][\w.,\[\]-]*")),
    "kill-on-invalid-dep": re.compile(r"yes|no"),
}  # fmt: skip


class OptionError(ValueError):
    """An option that cannot be given, and what to do instead."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


def option(name: str, value: Any, *, command_line: bool = False) -> Value | None:
    """Return the checked value of one option, None where it is switched off. A command line may name dependencies and plugins' options."""
    _check_name(name, command_line)
    if name in _YES_OR_NO and boolean(value) is not None:
        return "yes" if boolean(value) else "no"
    switch = _switch(name, value)
    if value is None or switch is False:
        return None
    if switch is True and name in FLAGS | MAYBE_FLAGS:
        return True
    if name in FLAGS:
        raise OptionError(f"{name} takes no value", f"write {BOOLEAN_HINT}")
    if value is True and name in KNOWN:
        raise OptionError(f"{name} needs a value")
    return True if value is True else _value(name, value)


def _switch(name: str, value: Any) -> bool | None:
    """Return whether a value switches an option on or off, None where it is a value like any other."""
    if isinstance(value, bool) or name not in FLAGS | MAYBE_FLAGS:
        return value if isinstance(value, bool) else None
    if value == "":
        return True
    return None if name in _COUNTS and str(value).isdigit() else boolean(value)


def options(given: Mapping[str, Any], *, command_line: bool = False) -> dict[str, Value]:
    """Return all options of a mapping, checked; those switched off are left out."""
    checked = {name: option(name, value, command_line=command_line) for name, value in given.items()}
    return {name: value for name, value in checked.items() if value is not None}


def _check_name(name: str, command_line: bool) -> None:
    plain = name.lstrip("-").replace("_", "-")
    if name in REFUSED and not (command_line and name == "dependency"):
        raise OptionError(f"{name} {'is not taken' if name in UNKNOWN_HERE else 'is set'} by fvlaunch", REFUSED[name])
    if name in KNOWN:
        return
    meant = SHORT.get(name.lstrip("-")) or (plain if plain in KNOWN | REFUSED.keys() else None) or SHORT.get(plain.lower())
    near = [meant] if meant else difflib.get_close_matches(plain, sorted(KNOWN), n=1)
    if command_line and not meant and re.fullmatch(r"[a-z][a-z0-9-]*", name):
        return
    raise OptionError(f"{name!r} is not a long option of sbatch", f"did you mean {near[0]}?" if near else "see man sbatch")


def _value(name: str, value: Any) -> Value:
    if not isinstance(value, (str, int)):
        raise OptionError(f"{name} must be text or a whole number, not {value!r}", "quote it")
    text = str(value)
    if not text or CONTROL.search(text):
        raise OptionError(f"{name} is empty" if not text else f"{name} holds a control character")
    if name in ("time", "time-min"):
        try:
            return time_text(value)
        except ValueError as error:
            raise OptionError(f"{name}: {error}", TIME_HINT) from None
    if name in gpu_counts.FORMS:
        return _gpus(name, value)
    if name == "export":
        _check_export(text)
    form = _FORMS.get(name)
    if form and not form.fullmatch(text):
        raise OptionError(f"{text[:60]!r} is not a value of {name}")
    return value


def _gpus(name: str, value: str | int) -> Value:
    try:
        return gpu_counts.checked(name, value)
    except gpu_counts.GpuError as error:
        raise OptionError(error.message, error.hint) from None


def _check_export(text: str) -> None:
    """Refuse a secret's value: the option is written into the batch script and run.yaml. And what names no variable: sbatch would look for
    one whose name has a space in it, and say nothing."""
    for item in _UNQUOTED_COMMA.split(text):
        variable, given, _ = item.partition("=")
        if not variable or re.search(r"\s", variable):
            names = ",".join(re.split(r"[\s,]+", text.strip(" ,")))
            hint = f"commas alone stand between names{'' if '=' in text else f': {names}'}"
            raise OptionError(f"export: {variable!r} is not the name of a variable", hint)
        if given and SECRET_NAME.search(variable):
            raise OptionError(f"export gives {variable} a value, which would be written to run.yaml", f"write secrets: [{variable}]")
