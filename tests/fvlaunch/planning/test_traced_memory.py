"""`--dry-run --traced`: what a program in FVLAUNCH_GPU_SIM simulates stands beside the estimate; where there is none, a line says so."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fvlaunch.planning import traced_memory
from tests.gpu import environment
from tests.gpu.figures import Figures, Kept, Phase
from tests.support.profiles import Call, caller_beside_a_profile

WORDS = ("submit", "shapes-finetune", "--cluster", "lab", "--dry-run")
FIGURES = Figures(
    "shapes-finetune", 1, "simulated H100", 7_000_000, {"student": Kept(2_000_000, 4_000_000, 1_000_000)}, 8_000_000,
    {"step": Phase(1, peak=30_000_000, reserved=44_000_000)}, {"torch": "2.13.0+cu130"}, {},
)  # fmt: skip


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.delenv(traced_memory.VARIABLE, raising=False)
    return caller_beside_a_profile(tmp_path, monkeypatch, capsys)


def program(folder: Path, text: str) -> Path:
    """Write what simulates into a folder, which is returned."""
    folder.mkdir(exist_ok=True)
    path = folder / traced_memory.PROGRAM
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(0o755)
    return folder


def test_both_columns_are_shown(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tmp_path / "given.json"
    note = f"import json, sys; json.dump([*sys.argv[1:], open(sys.argv[1]).read()], open({str(given)!r}, 'w'))"
    text = f"{note}\nprint({json.dumps([FIGURES.plain()])!r})"
    monkeypatch.setenv(traced_memory.VARIABLE, str(program(tmp_path / "sim", text)))
    code, out, err = call(*WORDS, "--traced", "--set", "train.max_steps=77")
    assert code == 0 and "max_steps: 77" in out
    rows = {row[0].strip(): row[1:] for row in (re.split(r" {2,}", line.strip()) for line in err.splitlines())}
    assert rows["student, between steps"][1] == "7.0 MB" and rows["at most"][-1] == "44.0 MB"
    _recipe, *words, recipe = json.loads(given.read_text())
    assert words == ["--ranks", "1", "--json"] and "max_steps: 77" in recipe
    code, out, _ = call(*WORDS, "--traced", "--json")
    assert json.loads(out)["memory"]["simulated"]["phases"]["step"]["reserved"] == 44_000_000


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import sys; sys.exit('the step FAILS: no kernel')", "ended with 1: the step FAILS: no kernel"),
        ("print('[]')", "ended with 0: it said nothing"),
        ("print('[{}]')", "ended with 0"),
        ("print('no JSON')", "ended with 0"),
    ],
)
def test_a_simulation_that_fails_leaves_the_estimate(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, why: str
) -> None:
    monkeypatch.setenv(traced_memory.VARIABLE, str(program(tmp_path / "sim", text)))
    code, _, err = call(*WORDS, "--traced")
    assert code == 0 and "at most" in err and f"not simulated: {tmp_path}/sim/simulate" in err and why in err


def test_where_nothing_simulates_a_line_says_what_helps(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = call(*WORDS, "--traced")
    assert code == 0 and "at most" in err and "FVLAUNCH_GPU_SIM is not set" in err and "python -m tests.gpu make" in err
    monkeypatch.setenv(traced_memory.VARIABLE, str(tmp_path / "other"))
    code, out, _ = call(*WORDS, "--traced", "--json")
    memory = json.loads(out)["memory"]
    assert code == 0 and memory["simulated"] is None and "has no program simulate" in memory["not_simulated"] and memory["peak"] > 0


def test_a_program_that_cannot_be_started_is_told(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = program(tmp_path / "sim", "")
    (folder / traced_memory.PROGRAM).write_text("#!/no/such/interpreter\n")
    monkeypatch.setenv(traced_memory.VARIABLE, str(folder))
    code, _, err = call(*WORDS, "--traced")
    assert code == 0 and "does not start" in err


def test_what_does_not_train_is_not_simulated(call: Call) -> None:
    code, _, err = call("submit", "download", "--cluster", "lab", "--dry-run", "--traced")
    assert code == 0 and "only what trains is simulated" in err


def test_it_is_of_the_dry_run_alone(call: Call) -> None:
    code, _, err = call("submit", "shapes-finetune", "--cluster", "lab", "--traced")
    assert code == 1 and "--traced is of --dry-run" in err


def test_an_environments_program_simulates_with_the_checkout_that_made_it(tmp_path: Path) -> None:
    folder = tmp_path / "with a space"
    (folder / "bin").mkdir(parents=True)
    made = environment.Environment(folder)
    made.python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    made.python.chmod(0o755)
    environment._write_command(made)
    done = subprocess.run([made.command, "dmd2", "--json"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3 and "no environment to simulate in" in done.stderr  # it has no device
