"""Owns the options and arguments that several commands share. Must not import anything heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import completion

RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A name, a unique prefix, a path, a job id, PIPELINE/STAGE, or `last`.", autocompletion=completion.runs
    ),
]
ClusterName = Annotated[
    str | None, typer.Option("--cluster", metavar="NAME", help="Cluster profile: where it runs.", autocompletion=completion.clusters)
]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe's key, e.g. train.max_steps=200.")]
Ranks = Annotated[int | None, typer.Option("--ranks", help="Processes in all; one a GPU.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunsDir = Annotated[Path | None, typer.Option("--runs-dir", metavar="DIR", help="Folder of the run directories.")]


def sbatch_option(*names: str, text: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="sbatch options")


Partition = Annotated[str | None, sbatch_option("-p", "--partition", text="Partition to submit to.")]
Time = Annotated[str | None, sbatch_option("-t", "--time", text="Time limit of one attempt.")]
Account = Annotated[str | None, sbatch_option("-A", "--account", text="Account to charge.")]
Qos = Annotated[str | None, sbatch_option("-q", "--qos", text="Quality of service.")]
Exclude = Annotated[str | None, sbatch_option("-x", "--exclude", text="Nodes to stay away from.")]
Nodelist = Annotated[str | None, sbatch_option("-w", "--nodelist", text="Nodes to use.")]
Constraint = Annotated[str | None, sbatch_option("-C", "--constraint", text="Features that nodes must have, e.g. h100.")]
Dependency = Annotated[str | None, sbatch_option("-d", "--dependency", text="Start after other jobs, e.g. afterok:123.")]
Reservation = Annotated[str | None, sbatch_option("--reservation", text="Reservation to use.")]
Begin = Annotated[str | None, sbatch_option("--begin", text="Start no earlier than this, e.g. now+1hour.")]
Memory = Annotated[str | None, sbatch_option("--mem", text="Memory of a node.")]
