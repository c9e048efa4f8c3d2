"""One version: what is written in fvlaunch/__init__.py is what a wheel says, what the command says, and the changelog's newest release."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from datetime import date
from email import message_from_string
from pathlib import Path

import pytest

from fvlaunch import __version__
from fvlaunch.cli import app
from tests.support.paths import ROOT

HEADING = re.compile(r"(\d+)\.(\d+)\.(\d+) \((\d{4}-\d{2}-\d{2})\)")


def sections() -> list[str]:
    """The changelog's headings, newest first, without the open section above the newest release, if there is one."""
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    return headings[1:] if headings[0] == "Unreleased" else headings


def test_the_changelog_is_by_release_newest_first() -> None:
    found = [HEADING.fullmatch(heading) for heading in sections()]
    assert all(found), f"a heading is VERSION (YYYY-MM-DD): {sections()}"
    releases = [(tuple(int(number) for number in one.groups()[:3]), date.fromisoformat(one[4])) for one in found if one]
    assert releases == sorted(releases, reverse=True) and len({version for version, _ in releases}) == len(releases)


def test_the_newest_release_in_the_changelog_is_the_version() -> None:
    assert sections()[0].split()[0] == __version__


def test_the_command_tells_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--version"]) == 0
    assert capsys.readouterr().out == f"fvlaunch {__version__}\n"


def test_the_version_is_written_in_one_place() -> None:
    """Not in pyproject.toml too."""
    text = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in text and not re.search(r"^version\s*=", text, re.MULTILINE)


def test_a_wheel_is_of_that_version_and_holds_templates_and_profiles(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = message_from_string(archive.read(f"fvlaunch-{__version__}.dist-info/METADATA").decode())
    assert (metadata["Name"], metadata["Version"]) == ("fvlaunch", __version__)
    assert {"fvlaunch/__init__.py", "fvlaunch_command.py", "trainers/__init__.py"} <= names
    for folder in ("templates", "clusters"):
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.yaml")}
        assert files and {f"fvlaunch/data/{name}" for name in files} <= names
