"""Python processes run the code that they are meant to run, wherever they are started and whatever PYTHONPATH holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fvlaunch import __version__
from fvlaunch.diagnostics import node_probe
from fvlaunch.schedulers.python_processes import module_command, python_path, settle
from tests.support.foreign_modules import ForeignModules
from tests.support.paths import ROOT
from tests.support.source_copy import checkout
from trainers import processes


@pytest.fixture
def foreign(tmp_path: Path) -> ForeignModules:
    (tmp_path / "work").mkdir()
    return ForeignModules(tmp_path / "work", tmp_path / "executed")


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": python_path(ROOT, {}), **environment}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=240, check=False, stdin=subprocess.DEVNULL)


def test_a_program_never_takes_a_module_from_the_working_directory(foreign: ForeignModules) -> None:
    done = run(module_command(sys.executable, "fvlaunch", "--version"), foreign.folder)
    assert (done.returncode, done.stdout.split()[:1], foreign.executed) == (0, ["fvlaunch"], []), done.stderr


def test_a_node_is_looked_at_without_the_modules_of_the_working_directory(foreign: ForeignModules, tmp_path: Path) -> None:
    done = run([sys.executable, "-S", "-c", node_probe._PROGRAM, str(tmp_path / "answer")], foreign.folder)
    assert (done.returncode, (tmp_path / "answer").is_file(), foreign.executed) == (0, True, []), done.stderr


def test_the_trainers_start_modules_as_the_launcher_does() -> None:
    assert processes.module_command("trainers", "x") == module_command(sys.executable, "trainers", "x")


@pytest.mark.parametrize("before", [":{lib}", "{lib}:", ":{lib}::", "::", ":"])
def test_an_empty_part_of_pythonpath_is_not_the_working_directory(foreign: ForeignModules, tmp_path: Path, before: str) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/my_own.py").write_text("import sys; print('mine', sys.argv[1])")
    environment = {"PYTHONPATH": before.format(lib=tmp_path / "lib")}
    path = python_path(ROOT, environment)
    module = "my_own" if "lib" in before else "fvlaunch"
    done = run(module_command(sys.executable, module, "--version"), foreign.folder, PYTHONPATH=path)
    assert (done.returncode, foreign.executed) == (0, []), done.stderr
    settle(environment)
    assert environment == ({"PYTHONPATH": str(tmp_path / "lib")} if "lib" in before else {})


def test_a_relative_part_of_pythonpath_means_the_same_in_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {"PYTHONPATH": "lib:../up:/abs", "PYTHONINSPECT": "1", "PYTHONHASHSEED": "0"}
    settle(environment)
    assert environment == {"PYTHONPATH": f"{tmp_path}/lib:{tmp_path.parent}/up:/abs", "PYTHONHASHSEED": "0"}


@pytest.mark.parametrize("name", ["fvlaunch", "trainers"])
def test_a_foreign_package_of_our_name_does_no_harm(tmp_path: Path, name: str) -> None:
    """The files lie as a wheel installs them."""
    installed = checkout(tmp_path / "installed", git=False)
    shutil.copy(ROOT / "fvlaunch/cli/installed_command.py", installed / "fvlaunch_command.py")
    foreign = tmp_path / "foreign" / name
    foreign.mkdir(parents=True)
    (foreign / "__init__.py").write_text("raise SystemExit('of somebody else')\n")
    program = (
        "from fvlaunch_command import main; import atexit; atexit.register(lambda: print(__import__('trainers.config').__file__)); main()"
    )
    done = run([sys.executable, "-c", program, "--version"], tmp_path, PYTHONPATH=f"{foreign.parent}:{installed}")
    assert done.stdout.splitlines() == [f"fvlaunch {__version__}", str(installed / "trainers/__init__.py")], done.stderr
