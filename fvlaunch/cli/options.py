"""Owns the options and arguments that several commands share. Must not import anything heavy."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from . import completion

RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A name, a unique prefix, a path, a job id, PIPELINE/STAGE, or `last`.", autocompletion=completion.runs
    ),
]
RunNames = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN...",
        help="Names, unique prefixes, paths, job ids, PIPELINE/STAGE, `last`; a quoted glob, 'dmd2-*', names several.",
        autocompletion=completion.runs,
    ),
]
ClusterName = Annotated[
    str | None, typer.Option("--cluster", metavar="NAME", help="Cluster profile: where it runs.", autocompletion=completion.clusters)
]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe's key, e.g. train.max_steps=200.")]
Ranks = Annotated[int | None, typer.Option("--ranks", help="Processes in all; one a GPU.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunsDir = Annotated[Path | None, typer.Option("--runs-dir", metavar="DIR", help="Folder of the run directories.")]


Sbatch = Mapping[str, str]
"""sbatch options of a command line by long name; see `with_sbatch_options`."""
NO_SBATCH: Sbatch = MappingProxyType({})


def _sbatch_option(*names: str, text: str) -> Any:
    return Annotated[str | None, typer.Option(*names, help=text, rich_help_panel="sbatch options")]


SBATCH_OPTIONS: dict[str, Any] = {
    "partition": _sbatch_option("-p", "--partition", text="Partition to submit to."),
    "time": _sbatch_option("-t", "--time", text="Time limit of one attempt."),
    "account": _sbatch_option("-A", "--account", text="Account to charge."),
    "qos": _sbatch_option("-q", "--qos", text="Quality of service."),
    "exclude": _sbatch_option("-x", "--exclude", text="Nodes to stay away from."),
    "nodelist": _sbatch_option("-w", "--nodelist", text="Nodes to use."),
    "constraint": _sbatch_option("-C", "--constraint", text="Features that nodes must have, e.g. h100."),
    "dependency": _sbatch_option("-d", "--dependency", text="Start after other jobs, e.g. afterok:123."),
    "reservation": _sbatch_option("--reservation", text="Reservation to use."),
    "begin": _sbatch_option("--begin", text="Start no earlier than this, e.g. now+1hour."),
    "mem": _sbatch_option("--mem", text="Memory of a node."),
}
"""Long name of each of sbatch's options that commands take as their own -> its annotation."""
FEW_SBATCH_OPTIONS = ("partition", "time", "account", "qos")


def with_sbatch_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these of SBATCH_OPTIONS (default: all) in place of its parameter `sbatch`, which gets those that were given."""
    chosen = names or tuple(SBATCH_OPTIONS)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def called(**given: Any) -> None:
            sbatch = {name: given.pop(name) for name in chosen}
            command(**given, sbatch={name: value for name, value in sbatch.items() if value is not None})

        signature = inspect.signature(command, eval_str=True)  # typer takes a signature that is set as it is
        own = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=SBATCH_OPTIONS[n]) for n in chosen]
        parameters: list[inspect.Parameter] = []
        for one in signature.parameters.values():
            parameters += own if one.name == "sbatch" else [one.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
        called.__annotations__ = {one.name: one.annotation for one in parameters}
        called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return called

    return decorate
