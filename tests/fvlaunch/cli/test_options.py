"""The options that commands share are written once: each command takes them in its own place, and gets those that were given."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import typer

from fvlaunch.cli.options import FEW_SBATCH_OPTIONS, NO_SBATCH, SBATCH_OPTIONS, AsJson, Sbatch, with_sbatch_options


def parsed(names: tuple[str, ...], *argv: str) -> dict[str, Any]:
    """What a command with these options is called with."""
    calls: list[dict[str, Any]] = []

    @with_sbatch_options(*names)
    def command(what: str, sbatch: Sbatch = NO_SBATCH, json_: AsJson = False) -> None:
        calls.append({"what": what, "sbatch": sbatch, "json_": json_})

    app = typer.Typer(add_completion=False)
    app.command()(command)
    app(args=list(argv), standalone_mode=False)
    return calls[0]


def test_a_command_gets_the_sbatch_options_that_were_given_by_long_name() -> None:
    assert parsed((), "a", "-p", "main", "--mem=5", "--json") == {"what": "a", "sbatch": {"partition": "main", "mem": "5"}, "json_": True}
    assert parsed((), "a") == {"what": "a", "sbatch": {}, "json_": False}


def test_an_option_that_a_command_does_not_take_is_refused() -> None:
    with pytest.raises(Exception, match="No such option"):
        parsed(FEW_SBATCH_OPTIONS, "a", "--mem=5")


def test_the_options_stand_where_the_command_has_its_mapping() -> None:
    @with_sbatch_options(*FEW_SBATCH_OPTIONS)
    def command(what: str, sbatch: Sbatch = NO_SBATCH, json_: AsJson = False) -> None: ...

    assert list(inspect.signature(command).parameters) == ["what", *FEW_SBATCH_OPTIONS, "json_"]
    assert set(FEW_SBATCH_OPTIONS) < SBATCH_OPTIONS.keys()
