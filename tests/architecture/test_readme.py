"""The README tells the command line as it is."""

from __future__ import annotations

import re

import pytest
import typer.main

from fvlaunch.cli import app
from tests.support import readme

STALE = f"README.md is stale; refresh it with: {readme.REFRESH}"


def test_the_command_reference_is_up_to_date() -> None:
    told = readme.current(readme.README.read_text())
    assert told is not None, STALE
    if f"with {readme.formatter()} -->" not in told:
        pytest.skip(f"the reference was laid out by another version than {readme.formatter()}")
    assert told == readme.reference(), STALE


def test_every_command_and_option_is_in_the_readme_and_says_what_it_is_for() -> None:
    told = readme.current(readme.README.read_text()) or ""
    for name, command in typer.main.get_command(app.app).commands.items():  # type: ignore[attr-defined]
        [section] = re.findall(rf"^### fvlaunch {name}\n(.*?)^```$", told, re.DOTALL | re.MULTILINE)
        assert command.help
        for option in (word for parameter in command.params for word in parameter.opts if word.startswith("-")):
            assert option in section, f"{name} {option}: {STALE}"
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name} has no help text"
