"""What RUN means: the runs folder in force comes before what the index knows of others; globs name several; a slip is answered."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from fvlaunch.config.runs_folder import in_force
from fvlaunch.errors import FvlaunchError, NameTaken, NotFound
from fvlaunch.planning.plan import free_name
from fvlaunch.runs import registry
from fvlaunch.runs.directory import Run, create
from fvlaunch.runs.run_names import find, find_several
from tests.support.isolation import isolate
from tests.support.records import record


@pytest.fixture(autouse=True)
def _away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path, monkeypatch)


def _run(folder: Path, name: str, at: float = 1.0, **changes: object) -> Run:
    run = create(folder / name, record(name, submitted_at=at, **changes))
    registry.remember(run.path)
    return run


def test_a_run_that_the_index_cannot_take_is_told_with_its_path(tmp_path: Path) -> None:
    known, unknown = _run(tmp_path / "a", "one"), create(tmp_path / "a" / "two", record("two"))
    registry.remember(known.path)
    assert registry.indexed() == [str(known.path)] and registry.unremembered(known.path) == ""
    (registry.state_folder() / "runs.jsonl").unlink()
    (registry.state_folder() / "runs.jsonl").mkdir()
    registry.remember(unknown.path)
    assert str(registry.state_folder()) in registry.unremembered(unknown.path) and str(unknown.path) in registry.unremembered(unknown.path)


def test_a_name_means_the_run_in_the_folder_in_force_whatever_else_is_called_so(tmp_path: Path) -> None:
    a, b, c = (_run(tmp_path / folder, "one", at) for at, folder in enumerate(("a", "b", "c")))
    for run, folder in ((a, "a"), (b, "b"), (c, "c")):
        assert find("one", [tmp_path / folder]).path == run.path
    with pytest.raises(FvlaunchError, match="means 3 runs:") as caught:
        find("one", [tmp_path / "elsewhere"])
    assert all(str(run.path) in str(caught.value) for run in (a, b, c)) and "--runs-dir" in caught.value.hint


def test_a_prefix_or_job_id_means_one_of_the_folder_in_force_first(tmp_path: Path) -> None:
    here, there = _run(tmp_path / "here", "dmd2-a", job_ids=("7",)), _run(tmp_path / "there", "dmd2-b", 2.0, job_ids=("7",))
    assert find("dmd2", [here.path.parent]).path == find("7", [here.path.parent]).path == here.path
    assert find("dmd2", [there.path.parent]).path == find("7", [there.path.parent]).path == there.path
    assert find("dmd2-b", [here.path.parent]).path == there.path, "a whole name elsewhere comes before no name here"
    for word in ("dmd2", "7"):
        with pytest.raises(FvlaunchError, match="means 2 runs"):
            find(word, [tmp_path / "nowhere"])


def test_last_is_the_newest_of_all_or_of_the_folder_that_was_named(tmp_path: Path) -> None:
    old, new = _run(tmp_path / "here", "old", 1.0), _run(tmp_path / "there", "new", 2.0)
    assert find("last", [old.path.parent]).path == new.path
    assert find("last", [old.path.parent], newest_here=True).path == old.path
    assert find("last", [tmp_path / "empty"], newest_here=True).path == new.path


@pytest.mark.parametrize(
    ("word", "meant"),
    [("dmd2-wan", "dmd2-wan-1"), ("dmd3-wan-1", "dmd2-wan-1"), ("fintune", "finetune"), ("FINETUNE", "finetune"), ("zzz", None)],
)
def test_a_mistyped_name_is_answered_with_what_was_meant(tmp_path: Path, word: str, meant: str | None) -> None:
    for name in ("dmd2-wan-1", "finetune", "kd"):
        _run(tmp_path / "runs", name)
    if word == "dmd2-wan":
        assert find(word, [tmp_path / "runs"]).name == meant
        return
    with pytest.raises(NotFound) as caught:
        find(word, [tmp_path / "runs"])
    assert caught.value.hint == (f"did you mean {meant}? fvlaunch list runs" if meant else "fvlaunch list runs")


@pytest.mark.parametrize(
    ("word", "meant"), [("dk", "kd"), ("kc", "kd"), ("cbb", "abb"), ("bab", "abb"), ("abx", "abb"), ("lrp", "lora-2026"), ("zz", None)]
)
def test_a_mistyped_name_of_two_or_three_letters_is_answered_too(tmp_path: Path, word: str, meant: str | None) -> None:
    for name in ("kd", "abb", "lora-2026"):
        _run(tmp_path / "runs", name)
    with pytest.raises(NotFound) as caught:
        find(word, [tmp_path / "runs"])
    assert caught.value.hint == (f"did you mean {meant}? fvlaunch list runs" if meant else "fvlaunch list runs")


def test_a_glob_names_all_that_it_matches_here_else_elsewhere(tmp_path: Path) -> None:
    for name in ("dmd2-a", "dmd2-b", "kd-a"):
        _run(tmp_path / "here", name)
    _run(tmp_path / "there", "dmd2-c")
    _run(tmp_path / "there", "self-a")
    here = [tmp_path / "here"]
    for words, names in (
        (["dmd2-*"], ["dmd2-a", "dmd2-b"]),
        (["*-a"], ["dmd2-a", "kd-a"]),
        (["dmd2-[b-z]"], ["dmd2-b"]),
        (["dmd2-?", "kd-a", "dmd2-a"], ["dmd2-a", "dmd2-b", "kd-a"]),
        (["self-*"], ["self-a"]),
        ([str(tmp_path / "there/*")], ["dmd2-c", "self-a"]),
    ):
        assert [one.name for one in find_several(words, here)] == names, words
    for word in ("nothing-*", "x/*", "[z]"):
        with pytest.raises(NotFound, match="no run matches"):
            find_several([word], here)
    assert find("kd-*", here).name == "kd-a"
    with pytest.raises(FvlaunchError, match="means 2 runs"):
        find("dmd2-*", here)


def test_a_link_in_the_runs_folder_is_a_name_and_one_that_dangles_is_told(tmp_path: Path) -> None:
    run = _run(tmp_path / "disk", "real")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/alias").symlink_to(run.path)
    (tmp_path / "runs/gone").symlink_to(tmp_path / "disk/deleted")
    assert find("alias", [tmp_path / "runs"]).path == run.path
    with pytest.raises(NotFound, match=r"gone is a link to .*deleted, which does not exist"):
        find("gone", [tmp_path / "runs"])


def test_the_folder_in_force_is_the_profiles_where_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_force(None) == Path("runs") and in_force(tmp_path) == tmp_path
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters/lab.yaml").write_text('executor: slurm\npaths: {scratch: "/scratch/${USER}"}\nruns_dir: ${paths.scratch}/runs\n')
    monkeypatch.setenv("USER", "me")
    monkeypatch.setenv("FVLAUNCH_CLUSTER", "lab")
    assert in_force(None) == Path("/scratch/me/runs")
    monkeypatch.setenv("FVLAUNCH_CLUSTER", "none-of-that-name")
    assert in_force(None) == Path("runs")
    monkeypatch.delenv("FVLAUNCH_CLUSTER")
    (tmp_path / "home/config/fvlaunch").mkdir(parents=True)
    (tmp_path / "home/config/fvlaunch/config.yaml").write_text("cluster: lab\n")
    assert in_force(None) == Path("/scratch/me/runs")
    (tmp_path / "home/config/fvlaunch/config.yaml").unlink()
    (tmp_path / "clusters/local.yaml").write_text("executor: local\nruns_dir: mine\n")
    assert in_force(None) == tmp_path / "mine"


def test_a_free_name_has_a_number_where_the_name_is_taken(tmp_path: Path) -> None:
    assert free_name("a", tmp_path) == "a" and free_name("a", tmp_path / "none") == "a"
    (tmp_path / "a").mkdir()
    (tmp_path / "a-2").symlink_to("gone")
    assert free_name("a", tmp_path) == "a-3"


def test_of_many_who_make_a_run_of_one_name_one_does(tmp_path: Path) -> None:
    made: list[str] = []

    def make() -> None:
        try:
            create(tmp_path / "runs/one", record("one"))
            made.append("made")
        except NameTaken as error:
            made.append(error.message.partition(":")[0])

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == sorted(["made", *["a run named 'one' exists already"] * 7])
