"""Owns which options of sbatch a submission ends up with, and what a person is told of that. Pure.

Layers: command line > SBATCH_* of the shell > what config/compose.py merged. Where options say one thing in several ways (memory, GPUs),
those of a higher layer replace all that the layers below say of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ..config import sbatch_options
from ..config.sbatch_options import OptionError, Value
from ..config.schema import Cluster
from ..config.shell_options import ShellOption, from_shell
from ..config.strict_yaml import KeyPath
from ..errors import Place, Problem, counted
from ..schedulers.slurm import gpu_counts
from ..schedulers.slurm.gpu_counts import Asked, GpuError

COMMAND_LINE = Place("command line")
SHELL = "the shell's SBATCH_* variables"
_MEMORY = frozenset({"mem", "mem-per-cpu", "mem-per-gpu"})


@dataclass
class JobOptions:
    """Options by long name, the layer that each came from, what is wrong, and what is told in one line each."""

    values: dict[str, Value] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def give(self, option: str, value: Any, origin: str, where: Place) -> None:
        """Lay an option of a higher layer over those that are there; None switches it off."""
        try:
            checked = sbatch_options.option(option, value, command_line=True)
        except OptionError as error:
            self.problems.append(Problem(error.message, where, f"--{option}", error.hint))
            return
        for below in self.replaced(option, checked):
            left = gpu_counts.without_gpus(below, self.values[below]) if below != option else None
            if left is None:
                del self.values[below], self.origins[below]
            else:
                self.values[below] = left
        if checked is not None:
            self.values[option], self.origins[option] = checked, origin

    def replaced(self, option: str, value: Value | None) -> list[str]:
        """Return the options that say the same as this one, in any form."""
        same = {option}
        if option in _MEMORY:
            same |= _MEMORY
        if gpu_counts.names_gpus(option, value):
            same |= {form for form in gpu_counts.FORMS if gpu_counts.names_gpus(form, self.values.get(form))}
        return [name for name in self.values if name in same]

    def place(self, option: str) -> Place | None:
        """Return where an option was given."""
        file, _, line = self.origins.get(option, "").rpartition(":")
        if file and line.isdecimal():
            return Place(file, int(line))
        return Place(self.origins[option]) if self.origins.get(option, "default") != "default" else None

    def key(self, option: str) -> str:
        """Return an option's name as it was given: on a command line, or in a profile."""
        return f"--{option}" if self.origins.get(option) in (COMMAND_LINE.file, SHELL) else f"cluster.slurm.{option}"


def layered(cluster: Cluster, origins: Mapping[KeyPath, str], given: Mapping[str, Any], shell: Mapping[str, str]) -> JobOptions:
    """Return the options of all layers of a job for Slurm. `origins` says where each value of the profile was written."""
    profile = cluster.slurm
    options = JobOptions(dict(profile), {key: origins.get(("cluster", "slurm", key), "the profile") for key in profile})
    beaten = {one: _give_of_shell(options, one) for one in from_shell(shell)}
    for key, value in given.items():
        options.give(key, value, COMMAND_LINE.file, COMMAND_LINE)
    for one, before in beaten.items():
        if one.ignored and one.option != "clusters":
            options.notes.append(f"note: {one} in the shell is ignored: {one.ignored}")
        elif options.origins.get(one.option) == SHELL and str(options.values[one.option]) != before.get(one.option):
            instead = "; ".join(f"cluster.slurm.{name}: {value}" for name, value in before.items())
            options.notes.append(f"note: {one} in the shell is used" + (f" instead of {instead}" if before else f" as {one.option}"))
    _tell_lost_gpus(options, profile)
    if cluster.ranks_per_node is None:
        _tell_uncounted_gpus(options)
    _check_srun(options, cluster.srun_args)
    return options


def _give_of_shell(options: JobOptions, one: ShellOption) -> dict[str, str]:
    """Lay an option of the shell over the profile's and return those that it replaces, each with where it was written."""
    if one.option == "clusters":
        hint = f"unset {one.variable}; to submit there, work on a login node of {one.text}, or name its configuration in SLURM_CONF"
        message = f"{one} in the shell names another Slurm cluster, and jobs go to the one of this machine's configuration"
        options.problems.append(Problem(message, None, "", hint))
    if one.ignored:
        return {}
    value = one.value if isinstance(one.value, str) else None
    before = {name: f"{options.values[name]} ({options.origins[name]})" for name in options.replaced(one.option, value)}
    if str(options.values.get(one.option)) == str(one.value):
        before[one.option] = str(one.value)
    options.give(one.option, one.value, SHELL, Place(f"{one.variable} of the shell"))
    return before


def _tell_lost_gpus(options: JobOptions, profile: Mapping[str, Any]) -> None:
    if gpu_counts.num_gpus(profile) and not gpu_counts.names_any(options.values):
        form = next(form for form in gpu_counts.FORMS if gpu_counts.names_gpus(form, profile.get(form)))
        options.notes.append(f"note: no GPU is asked for: {form}: {profile[form]} of the profile is replaced by what names none")


def _tell_uncounted_gpus(options: JobOptions) -> None:
    """Tell of a job that may hold GPUs without asking for any: it gets one rank on each node."""
    if gpu_counts.names_any(options.values):
        return
    share = gpu_counts.share(options.values)
    whole = "exclusive holds whole nodes, and no GPU is asked for" if options.values.get("exclusive") else ""
    if held := f"gres: {share} is a part of a GPU" if share else whole:
        options.notes.append(f"note: {held}: one rank on each node, unless ranks_per_node says more")


def without_gpus(cluster: Cluster, options: Mapping[str, Any], what: str = "the job") -> tuple[str, ...]:
    """Return the line that tells of a job for Slurm that may compute on the CPU although nobody has said that this is meant."""
    if not cluster.leaves_device_open(options):
        return ()
    return (
        f"note: {what} asks for no GPU (gpus-per-node, gres and the like) and computes on the CPU of a node that shows none; "
        "device in the profile says what is meant: cpu, or gpu where GPUs come with the partition",
    )


def _check_srun(options: JobOptions, arguments: Sequence[str]) -> None:
    """Refuse a narrow --export of srun: the agents would not find their own code."""
    pairs = [(word, after) for word, after in pairwise([*arguments, ""]) if word.partition("=")[0] == "--export"]
    words = [after if word == "--export" else word.partition("=")[2] for word, after in pairs]
    if any("all" not in word.lower().split(",") for word in words):
        message = "srun's --export keeps from the agents what the batch script sets for them"
        options.problems.append(Problem(message, None, "cluster.srun_args", "write slurm: {export: ...}, which is for the job"))


# --- GPUs


def asked_gpus(options: JobOptions) -> Asked:
    """Return how many GPUs the options ask for; what cannot be counted becomes one of their problems."""
    try:
        return gpu_counts.asked(options.values)
    except GpuError as error:
        options.problems.append(_of_gpus(options, error))
        return Asked(None, None, "")


def _of_gpus(options: JobOptions, error: GpuError) -> Problem:
    return Problem(error.message, options.place(error.option), options.key(error.option), error.hint)


def gpus_of_a_node(options: JobOptions, asked: Asked, ranks: int, nodes: int | None) -> int | None:
    """Return how many ranks a full node has by its GPUs; None where nothing says so, or where that has become a problem.

    `gpus` is a number of the whole job: it is spread over the nodes that were asked for, else it is that of one node.
    """
    if asked.on_a_node or not asked.in_all:
        return asked.on_a_node
    message = ""
    if nodes and asked.in_all % nodes:
        message = f"{counted(asked.in_all, 'GPU')} in all cannot be spread evenly over {counted(nodes, 'node')}"
    elif nodes is None and ranks > asked.in_all:
        message = f"{ranks} ranks want a GPU each, and gpus asks for {asked.in_all} in all"
    if message:
        hint = "gpus counts the whole job's: write gpus-per-node, those of one node, instead"
        options.problems.append(Problem(message, options.place("gpus"), options.key("gpus"), hint))
        return None
    return asked.in_all // (nodes or 1)


def fitted(options: JobOptions, asked: Asked, on_a_node: int, nodes: int, *, ranks_are_given: bool) -> dict[str, Value]:
    """Return the options with a GPU for each rank: fewer than a node has, where the run is smaller than a node.

    `ranks_are_given`: the profile says itself how many ranks a node has, and GPUs are asked for as they stand; a difference is told.
    """
    there = asked.on_a_node or (asked.in_all or 0) // nodes
    if not asked.option or (ranks_are_given and there == on_a_node):
        return options.values
    if ranks_are_given:
        said = f"{counted(there, 'GPU')} of a node asked for ({_said(options, asked)})"
        options.notes.append(f"note: {said}, and {counted(on_a_node, 'rank')} on each (ranks_per_node); a rank uses one")
        return options.values
    if on_a_node < there:
        _tell_fewer(options, asked, there, on_a_node)
    elif asked.in_all is not None and asked.in_all != on_a_node * nodes:
        hint = f"gpus counts the whole job's: leave it out, {asked.option} says it"
        message = f"gpus asks for {asked.in_all} in all, and {counted(on_a_node * nodes, 'rank')} run"
        options.problems.append(Problem(message, options.place("gpus"), options.key("gpus"), hint))
    try:
        return gpu_counts.asking_for(options.values, on_a_node, nodes)
    except GpuError as error:
        options.problems.append(_of_gpus(options, error))
        return options.values


def _tell_fewer(options: JobOptions, asked: Asked, there: int, ranks: int) -> None:
    """Tell that GPUs are left out; where this very command asked for them, it is refused."""
    if options.origins[asked.option] == COMMAND_LINE.file:
        message = f"--{asked.option} asks for {counted(there, 'GPU')} of a node, and {counted(ranks, 'rank')} would use one each"
        hint = f"--ranks {there} uses them (in a pipeline --set STAGE.resources.ranks={there})"
        options.problems.append(Problem(message, COMMAND_LINE, f"--{asked.option}", hint))
    else:
        what = f"{counted(ranks, 'rank')}: {counted(ranks, 'GPU')} asked for, not the {there} of {_said(options, asked)}"
        options.notes.append(f"note: {what}; --ranks {there} uses all")


def _said(options: JobOptions, asked: Asked) -> str:
    return f"{asked.option}: {options.values[asked.option]}, {options.origins[asked.option]}"


# --- what of the shell the job is given


def exporting(options: Mapping[str, Value], secrets: Sequence[str], shell: Mapping[str, str]) -> dict[str, Value]:
    """Return the options with `export` naming the secrets that only this shell has: a job with a narrow environment still gets them."""
    text = str(options.get("export") or "ALL")
    names = [] if text.lower() == "none" else text.split(",")
    if any(name.lower() == "all" for name in names) or text.lower() == "nil":
        return dict(options)
    missing = [name for name in secrets if shell.get(name) and name not in {one.partition("=")[0] for one in names}]
    return {**options, "export": ",".join([*names, *missing])} if missing else dict(options)
