"""Secrets come by name, from the environment or a file of their owner's, and are nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from fvlaunch.cli import app
from fvlaunch.config import secrets as secret_values
from fvlaunch.errors import FvlaunchError
from tests.support.rows import fault

CANARY = "cafe-0123456789-canary"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("LAB_TOKEN", raising=False)
    return tmp_path


def write(text: str, mode: int = 0o600) -> Path:
    path = secret_values.file("LAB_TOKEN")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_value_comes_from_the_environment_else_from_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert secret_values.values(["LAB_TOKEN"]) == {} and secret_values.where("LAB_TOKEN") is None
    path = write(f"{CANARY}\n")
    assert secret_values.values(["LAB_TOKEN"]) == {"LAB_TOKEN": CANARY} and str(path) in (secret_values.where("LAB_TOKEN") or "")
    monkeypatch.setenv("LAB_TOKEN", "other-value")
    assert secret_values.values(["LAB_TOKEN"]) == {"LAB_TOKEN": "other-value"}


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused_with_the_cure(mode: int) -> None:
    path = write(CANARY, mode)
    with pytest.raises(FvlaunchError) as caught:
        secret_values.values(["LAB_TOKEN"])
    assert caught.value.hint == f"chmod 600 {path}" and CANARY not in str(caught.value)


def test_a_file_of_several_lines_or_a_folder_is_refused() -> None:
    write("one\ntwo")
    with pytest.raises(FvlaunchError, match="more than one line"):
        secret_values.where("LAB_TOKEN")
    secret_values.file("LAB_TOKEN").unlink()
    secret_values.file("LAB_TOKEN").mkdir()
    with pytest.raises(FvlaunchError):
        secret_values.where("LAB_TOKEN")


def test_text_and_files_lose_the_value_and_nothing_else(tmp_path: Path) -> None:
    secrets = {"A": CANARY, "B": CANARY + "-longer", "C": "x"}
    assert secret_values.redact(f"a x {CANARY}-longer {CANARY}", secrets) == "a x [secret] [secret]"
    assert secret_values.redacted({"a": [f"{CANARY}!", 1], "b": (None,)}, secrets) == {"a": ["[secret]!", 1], "b": (None,)}
    path = tmp_path / "log"
    path.write_bytes(f"x\n{CANARY}\n{CANARY}-longer é\n".encode())
    size = path.stat().st_size
    secret_values.mask(path, secrets)
    assert path.stat().st_size == size and CANARY not in path.read_text() and path.read_text().endswith("* é\n")
    (tmp_path / "empty").touch()
    for other in ("empty", "absent"):
        secret_values.mask(tmp_path / other, secrets)


@fault("H5", "a run that is prepared, shown and planned")
@pytest.mark.parametrize("how", ["environment", "file"])
def test_a_canary_is_in_no_file_of_a_prepared_run_and_in_nothing_that_is_printed(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("clusters").mkdir()
    profile = {"executor": "slurm", "paths": {"data": "data"}, "secrets": ["LAB_TOKEN", "ABSENT_TOKEN"]}
    Path("clusters/lab.yaml").write_text(yaml.safe_dump(profile))
    if how == "file":
        write(CANARY)
    else:
        monkeypatch.setenv("LAB_TOKEN", CANARY)
    assert app.run(["submit", "shapes-finetune", "--cluster", "lab", "--prepare", "--name", "r"]) == 0
    for words in (["submit", "shapes-finetune", "--cluster", "lab", "--dry-run"], ["show", "shapes-finetune", "--cluster", "lab"]):
        assert app.run(words) == 0
    shown = capsys.readouterr()
    assert CANARY not in shown.out + shown.err and "the secret ABSENT_TOKEN is not set" in shown.err and "LAB_TOKEN is not" not in shown.err
    files = [path for path in Path("runs/r").rglob("*") if path.is_file()]
    assert len(files) > 100 and [path for path in files if CANARY.encode() in path.read_bytes()] == []
    assert (
        all(path.stat().st_mode & 0o077 == 0 for path in Path("runs/r/job").rglob("*.pkl")) and Path("runs/r").stat().st_mode & 0o077 == 0
    )


def test_logs_hide_what_a_running_rank_has_just_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs/r"
    (run / "logs/attempt-0001").mkdir(parents=True)
    (run / "attempts").mkdir()
    (run / "attempts/0001.jsonl").touch()
    (run / "run.json").write_text(json.dumps({"name": "r"}))
    (run / "run.yaml").write_text("cluster: {secrets: [LAB_TOKEN]}\nrecipe: {}\n")
    (run / "logs/attempt-0001/rank-0000.log").write_text(f"key is {CANARY}.\n")
    monkeypatch.setenv("LAB_TOKEN", CANARY)
    assert app.run(["logs", str(run)]) == 0
    assert capsys.readouterr().out == "key is [secret].\n"


@pytest.mark.parametrize("name", ["lower-case", "A B", "$(touch CANARY)", "X=1", "SLURM_JOB_ID\n"])
def test_a_secret_is_a_name(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"executor": "local", "paths": {"data": "d"}, "secrets": [name]}))
    assert app.run(["show", "shapes-finetune", "--cluster", "./c.yaml"]) == 1
    assert "secrets" in capsys.readouterr().err


def test_a_log_is_masked_in_place_wherever_a_value_lies_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_values, "_PIECE", 64)
    values = {"A": "secret-one", "B": "secret-one-and-more"}
    for offset in range(50, 80):
        log = tmp_path / "log"
        log.write_text("x" * offset + "secret-one-and-more|" + "y" * 64 + "secret-one" + "z")
        inode = log.stat().st_ino
        secret_values.mask(log, values)
        assert log.read_text() == "x" * offset + "*" * 19 + "|" + "y" * 64 + "*" * 10 + "z"
        assert log.stat().st_ino == inode
