"""Owns how many GPUs options of sbatch ask for: gpus-per-node, gres, gpus-per-task, tres-per-task, gpus-per-socket and gpus. Pure.

fvlaunch starts one task on each node, so what a task is to get is what its node gets. Guards against GPUs that a job holds while no rank
is started for them: what cannot be counted is an error, never none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ...errors import counted

FORMS = ("gpus-per-node", "gres", "gpus-per-task", "tres-per-task", "gpus-per-socket", "gpus")
"""Options that may name GPUs."""
_LISTS = ("gres", "tres-per-task")
"""Options that may name other things than GPUs too."""
_TYPE = re.compile(r"[A-Za-z0-9_][\w.+-]*", re.ASCII)  # 2080ti, rtx_a6000, a100-sxm4-80gb, 1g.10gb, 1g.10gb+me
_COUNT = re.compile(r"\d{1,9}[KMGTP]?", re.ASCII | re.IGNORECASE)
_HINTS = {
    "gres": "write gpu:NUMBER, or gpu:TYPE:NUMBER as in gpu:a100:8",
    "tres-per-task": "write gres/gpu:NUMBER, or gres/gpu:TYPE:NUMBER",
}
_HINT = "write NUMBER, or TYPE:NUMBER as in a100:8"


class GpuError(ValueError):
    """An option that asks for GPUs in a way that cannot be counted: what, which option, and what to write instead."""

    def __init__(self, message: str, option: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.option, self.hint = message, option, hint


class Gpus(NamedTuple):
    """GPUs of one kind; `type` is empty where none was named."""

    type: str
    number: int

    def __str__(self) -> str:
        return f"{self.type}:{self.number}" if self.type else str(self.number)


class Asked(NamedTuple):
    """GPUs that a job asks for; None: nothing says so."""

    on_a_node: int | None
    in_all: int | None
    option: str
    """The option that says so; where several agree, the first of FORMS."""


def checked(option: str, value: str | int) -> str | int:
    """Return the value as sbatch takes it; GpuError where its GPUs cannot be counted."""
    if option == "gres" and str(value) == "help":
        raise GpuError("gres: help only makes sbatch print a list", option, "sinfo -o '%P %G' shows what there is")
    if re.search(r"\s", str(value)):
        raise GpuError(f"{str(value)[:60]!r} is not a value of {option}", option, "write it without spaces")
    plain = ",".join(_without_prefix(item) for item in str(value).split(",")) if option == "gres" else value
    kinds(option, plain)
    return plain


def kinds(option: str, value: Any) -> list[Gpus]:
    """Return the GPUs that one option names, by kind; GpuError where they cannot be read, or a kind is there twice."""
    found = list(_listed(option, str(value)) if option in _LISTS else _plain(option, str(value)))
    types = [kind.type for kind in found]
    if len(set(types)) < len(types) or ("" in types and len(types) > 1):
        raise GpuError(f"{option} {str(value)[:60]!r} may mean the same GPUs twice", option, "name each type once, or one number alone")
    return found


def _plain(option: str, value: str) -> Iterator[Gpus]:
    for item in value.split(","):
        type_, _, count = item.rpartition(":")
        if type_ == "gpu":
            raise GpuError(f"{item[:60]!r} is not a value of {option}", option, f"write {count}: gpu: belongs to gres")
        if not _COUNT.fullmatch(count) or (type_ and not _TYPE.fullmatch(type_)) or item.startswith(":"):
            hint = f"a type wants a number: {item}:1" if _TYPE.fullmatch(item) else _HINT
            raise GpuError(f"{item[:60]!r} is not a value of {option}", option, hint)
        yield Gpus(type_, _number(count))


def _listed(option: str, value: str) -> Iterator[Gpus]:
    for item in value.split(","):
        parts = _without_prefix(item).split(":")
        if (option == "tres-per-task" and not item.startswith("gres")) or not re.fullmatch(r"gpu(\(.*)?", parts[0], re.IGNORECASE):
            continue
        if len(parts) == 1:
            parts.append("1")
        if len(parts) == 2:
            parts = [parts[0], "", parts[1]] if _COUNT.fullmatch(parts[1]) else [*parts, "1"]
        name, type_, count = parts if len(parts) == 3 else ("", "", "")
        wrong_type = not _TYPE.fullmatch(type_) if type_ else "::" in item
        if name != "gpu" or not _COUNT.fullmatch(count) or wrong_type:
            shown = item.partition("(")[0]  # gpu:a100:4(S:0-1)
            hint = f"write {shown}: what stands in brackets is how a node is shown" if "(" in item else _HINTS[option]
            raise GpuError(f"{item[:60]!r} cannot be asked for by {option}", option, hint)
        yield Gpus(type_, _number(count))


def _without_prefix(item: str) -> str:
    """gres/gpu:2, gres:gpu:2 and gres/gpu=2, as Slurm writes them elsewhere -> gpu:2, as --gres takes them."""
    return re.sub(r"^gres[:/]", "", item).replace("=", ":")


def _number(text: str) -> int:
    """2 -> 2; 2k -> 2048"""
    power = "KMGTP".find(text[-1].upper()) + 1
    return int(text[:-1]) * 1024**power if power else int(text)


def names_gpus(option: str, value: Any) -> bool:
    """Say whether an option with this value is about GPUs."""
    try:
        return option in FORMS and value is not None and bool(kinds(option, value))
    except GpuError:
        return True


def names_any(options: Mapping[str, Any]) -> bool:
    """Say whether options ask for GPUs, in any form."""
    return any(names_gpus(form, options.get(form)) for form in FORMS)


def share(options: Mapping[str, Any]) -> str:
    """Return the part of a GPU that options ask for, as they write it; empty where they ask for none."""
    return next((item for item in str(options.get("gres", "")).split(",") if item.startswith(("shard", "mps"))), "")


def without_gpus(option: str, value: Any) -> str | None:
    """Return what an option says besides of GPUs: of gres gpu:2,nvme:1 the nvme:1; None where nothing is left."""
    if option not in _LISTS:
        return None
    return ",".join(item for item in str(value).split(",") if not names_gpus(option, item)) or None


def asked(options: Mapping[str, Any]) -> Asked:
    """Return what options ask for, all together; GpuError where two of them contradict each other, or one cannot be counted."""
    counts: dict[str, int] = {}
    for option in FORMS:
        if option in options and (found := kinds(option, options[option])):
            counts[option] = sum(kind.number for kind in found) * (_sockets(options) if option == "gpus-per-socket" else 1)
    in_all = counts.pop("gpus", None)
    first = next(iter(counts), "")
    for option, count in counts.items():
        if count != counts[first]:
            raise GpuError(f"{first} asks for {counted(counts[first], 'GPU')} of a node, {option} for {count}", option, "keep one of them")
    return Asked(counts.get(first) or None, in_all or None, first or ("gpus" if in_all else ""))


def _sockets(options: Mapping[str, Any]) -> int:
    text = str(options.get("sockets-per-node") or str(options.get("extra-node-info", "")).partition(":")[0])
    if not text.isdecimal() or not int(text):
        raise GpuError("gpus-per-socket wants the number of sockets", "gpus-per-socket", "write gpus-per-node, or add sockets-per-node")
    return int(text)


def num_gpus(options: Mapping[str, Any]) -> int | None:
    """Return the GPUs of a node, or of a job of one node; None where none are named, or not in a way that can be counted."""
    try:
        found = asked(options)
    except GpuError:
        return None
    return found.on_a_node or found.in_all


def asking_for(options: Mapping[str, Any], count: int, nodes: int = 1) -> dict[str, Any]:
    """Return the options with `count` GPUs on each of the nodes, in the form that they have; unchanged where none are named.

    GpuError where that is another number and several types are named: nobody can say which of them are meant.
    """
    changed = dict(options)
    for option in [option for option in FORMS if option in options]:
        found = kinds(option, options[option])
        if option == "gpus-per-socket" or (option == "gpus" and nodes > 1):  # Slurm may spread `gpus` unevenly over nodes
            del changed[option]
            changed.setdefault("gpus-per-node", str(_of_one_type(option, found, count)))
        elif found and sum(kind.number for kind in found) not in (0, count):
            changed[option] = _recounted(option, options[option], _of_one_type(option, found, count))
    return changed


def _of_one_type(option: str, found: list[Gpus], count: int) -> Gpus:
    if len(found) > 1:
        raise GpuError(f"{option} names several types, and {count} GPUs of a node are wanted", option, "name the one type that is meant")
    return Gpus(found[0].type, count)


def _recounted(option: str, value: Any, gpus: Gpus) -> str:
    if option not in _LISTS:
        return str(gpus)
    gpu = f"{'gres/' if option == 'tres-per-task' else ''}gpu:{gpus}"
    return ",".join(gpu if names_gpus(option, item) else item for item in str(value).split(","))
