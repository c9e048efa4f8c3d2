"""Somebody else's run: each command says in one line whose it is and what to ask for, and nothing is changed."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fvlaunch.cli import app
from fvlaunch.runs.directory import create
from tests.support.accounts import NOBODY, another_account
from tests.support.isolation import isolate
from tests.support.records import record

OWNERS = [
    (["export", "--to", "x"], "loaded only by their owner"),
    (["sample", "--prompt", "x"], "loaded only by their owner"),
    (["fork", "--step", "3", "--name", "mine"], "loaded only by their owner"),
    (["stop"], "only root can stop it"),
    (["cancel"], "only root can cancel it"),
    (["resume"], "only root can resume it"),
    (["prune", "--keep-last", "2"], "only root can prune it"),
]
"""What only a run's owner may do, and what others are told."""
READING = [["status"], ["logs"], ["verify"], ["wait"], ["attach"]]
CONFIG = "recipe: {extends: base/shapes}\ncluster: {executor: local}\n"


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for runs that everybody may write in, with a private run of this account in it and an open one."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        isolate(folder, monkeypatch)
        for mine in ("home", "runs"):
            (folder / mine).mkdir()
            (folder / mine).chmod(0o777)
        for run_name in ("private", "open"):
            run = create(folder / "runs" / run_name, record(run_name, state="finished", cluster="local"))
            run.config_file.write_text(CONFIG)
        for path in [folder / "runs/open", *(folder / "runs/open").rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        shutil.rmtree(folder / "home")  # no index: this account would know its runs by it
        yield folder


def _called(*words: str) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.redirect_stderr(out), contextlib.redirect_stdout(out):
        try:
            code = app.run(list(words))
        except SystemExit as end:
            code = int(end.code or 0)
    return code, out.getvalue()


@pytest.mark.parametrize("words", [*READING, *(words for words, _ in OWNERS)], ids=lambda words: words[0])
def test_of_a_private_run_it_is_told_whose_it_is(shared: Path, words: list[str]) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    (shared / "runs/private").chmod(0o000)
    os.chown(shared / "runs/private", NOBODY - 1, 0)
    for name in ("private", str(shared / "runs/private")):
        with another_account():
            code, text = _called(words[0], name, *words[1:])
        assert code == 1 and "user 65533's (d---------)" in text and "ask user 65533" in text and "Traceback" not in text, text


@pytest.mark.parametrize(("words", "told"), OWNERS, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_of_an_open_run_it_is_told_what_only_its_owner_may_do(shared: Path, words: list[str], told: str) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in (shared / "runs").rglob("*"))
    with another_account():
        code, text = _called(words[0], "open", *words[1:])
    assert code == 1 and "open is root's run" in text and told in text and "hint: ask root for fvlaunch" in text, text
    assert before == sorted((path, path.stat().st_mtime_ns) for path in (shared / "runs").rglob("*"))


def test_an_open_run_can_be_looked_at(shared: Path) -> None:
    with another_account():
        assert _called("status", "open")[0] == _called("logs", "open")[0] == 0


def test_a_recipe_in_a_private_run_is_told_to_be_anothers(shared: Path) -> None:
    for command in ("submit", "show"):
        with another_account():
            code, text = _called(command, str(shared / "runs/private/run.yaml"))
        assert code == 1 and f"{shared}/runs/private is root's (drwx------)" in text and "ask root to open it" in text, text


def test_a_glob_names_no_run_of_anothers(shared: Path) -> None:
    create(shared / "runs/open-mine", record("open-mine", state="finished"))
    for path in [shared / "runs/open-mine", *(shared / "runs/open-mine").rglob("*")]:
        os.chown(path, NOBODY, NOBODY) if os.geteuid() == 0 else None
    with another_account():
        code, text = _called("stop", "open*")
    assert code == 1 and "open-mine is finished already" in text and "root" not in text, text


@pytest.mark.parametrize("runs_dir", ["shut", "shut/x", "file", "file/x", "gone", "/dev/null", "/proc/x", "n" * 300])
def test_a_runs_folder_that_cannot_be_is_one_line_and_nothing_is_made(shared: Path, runs_dir: str) -> None:
    (shared / "file").write_text("")
    (shared / "gone").symlink_to("nowhere/at/all")
    (shared / "shut").mkdir(mode=0o500)
    words = ["submit", "shapes-finetune", "--cluster", "local", "--runs-dir", runs_dir]
    if runs_dir.startswith("shut") and os.geteuid() == 0:
        with another_account():
            code, text = _called(*words)
    else:
        code, text = _called(*words)
    assert code == 1 and text.count("error: ") == 1 and "hint: " in text and "Traceback" not in text, text
    assert not (shared / "nowhere").exists() and not list((shared / "shut").iterdir())
