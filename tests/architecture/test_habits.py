"""What is checked before a commit, by an editor and by the gate is one and the same: tests/run has the only list of checks."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.support.paths import ROOT

PRE_COMMIT = ROOT / ".pre-commit-config.yaml"


def run_tests(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run([str(ROOT / "tests/run"), *arguments], env=env, capture_output=True, text=True, timeout=120, check=False)


def test_a_commit_is_checked_by_what_the_gate_runs_and_by_all_of_it() -> None:
    """Each hook calls tests/run with one of its checks, and has no command of its own."""
    [repository] = yaml.safe_load(PRE_COMMIT.read_text())["repos"]
    names = run_tests("--list-checks").stdout.split()
    assert names == [hook["id"] for hook in repository["hooks"]] and len(names) > 2
    assert [hook["entry"] for hook in repository["hooks"]] == [f"tests/run --check {name}" for name in names]


def test_a_commit_is_checked_without_a_network() -> None:
    [repository] = yaml.safe_load(PRE_COMMIT.read_text())["repos"]
    assert repository["repo"] == "local" and {hook["language"] for hook in repository["hooks"]} == {"system"}


def test_pre_commit_understands_its_file() -> None:
    argv = [sys.executable, "-m", "pre_commit", "validate-config", str(PRE_COMMIT)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_checks_without_a_venv_say_how_to_get_one_and_install_nothing(tmp_path: Path) -> None:
    done = run_tests("--check", "lint", FVLAUNCH_TEST_VENV=str(tmp_path / "none"))
    assert done.returncode == 1 and "tests/run --setup" in done.stdout and list(tmp_path.iterdir()) == []


def test_a_check_that_does_not_exist_is_told_with_those_that_do() -> None:
    done = run_tests("--check", "colour", FVLAUNCH_TEST_VENV=sys.prefix)
    assert done.returncode == 2 and "no check 'colour'" in done.stdout and "lint format types" in done.stdout


def test_an_editor_and_ruff_agree_on_the_length_of_a_line() -> None:
    told = configparser.ConfigParser()
    told.read_string((ROOT / ".editorconfig").read_text().partition("\n\n")[2])
    assert f"line-length = {told['*']['max_line_length']}\n" in (ROOT / "pyproject.toml").read_text()
