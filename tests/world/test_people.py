"""What people type and share: words for yes, names, folders that may not be written in, somebody else's runs."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fvlaunch.runs.directory import create
from tests.support.launcher import Workspace
from tests.support.records import record
from tests.support.rows import row
from tests.support.stored_runs import unpack


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a run that has a checkpoint."""
    folder = tmp_path_factory.mktemp("stored")
    unpack(folder)
    return Workspace(folder)


@row("-", '`--set tiny=yes`, on, 1, "true"')
def test_every_word_for_yes_makes_it_tiny(place: Workspace) -> None:
    for word in ("yes", '"true"', "1"):
        shown = json.loads(place.call("show", "finetune", "--cluster", "here", "--set", f"tiny={word}", "--json").stdout)
        assert (shown["recipe"]["train"]["data"]["num_frames"], shown["recipe"]["train"]["models"]["student"]["init_from"]) == (
            9,
            "tiny-wan",
        )
    refused = place.call("show", "finetune", "--cluster", "here", "--set", "tiny=ja", check=False)
    assert refused.returncode == 1 and "must be true or false, not 'ja'" in refused.stderr and "yes and no, on and off" in refused.stderr


@row("-", "sample into an unwritable folder; --runs-dir not permitted")
def test_a_folder_that_may_not_be_written_in_is_one_line(stored: Workspace) -> None:
    for words in (
        ["sample", "finetune", "--prompt", "a square moving right", "--to", "/proc/x/y.mp4"],
        ["submit", "tiny", "--cluster", "here", "--runs-dir", "/proc/x"],
        ["status", "--runs-dir", "/dev/null"],
    ):
        done = stored.call(*words, check=False)
        assert done.returncode == 1 and done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr, done.stderr
        assert words[-1].partition("/y")[0] in done.stderr or "/proc" in done.stderr


@row("-", "a colleague: export files 0600 beside 0644; status, export, submit of another's run")
def test_an_export_can_be_read_by_those_whom_the_umask_lets_and_anothers_run_is_told(stored: Workspace) -> None:
    place, folder = stored, stored.folder
    place.call("export", "finetune", "--to", "given", umask=0o027)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in [folder / "given", *(folder / "given").rglob("*")]}
    assert modes == {0o750, 0o640}
    others = folder / "runs/finetune"
    others.chmod(0o000)
    if os.geteuid() == 0:
        os.chown(others, 65533, 65533)
    rights = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"] * (os.geteuid() == 0)
    for words in (["status", "finetune"], ["export", "finetune", "--to", "mine"], ["submit", "runs/finetune/run.yaml"]):
        argv = [*rights, sys.executable, "-m", "fvlaunch", *words]
        done = subprocess.run(argv, cwd=folder, env=place.env, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr, done.stderr
        assert ("user 65533's (d---------)" if rights else "its mode is d---------") in done.stderr and "hint: " in done.stderr
    shared = folder / "shared"
    shared.mkdir()
    others.rename(shared / "theirs")
    for words in (["status"], ["list", "runs"]):
        argv = [*rights, sys.executable, "-m", "fvlaunch", *words, "--runs-dir", str(shared)]
        env = {**place.env, "XDG_STATE_HOME": str(folder / "new-account")}
        done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "") and "may not be read by you: 1 of them, such as theirs" in done.stderr, done.stderr
    (shared / "theirs").chmod(0o700)


@row("-", "two submits within a second")
def test_submits_within_a_second_get_names_of_their_own(place: Workspace) -> None:
    place.slurm_cluster("queue")
    words = [sys.executable, "-m", "fvlaunch", "submit", "tiny", "--cluster", "queue", "--prepare", "--no-snapshot"]
    shells = [
        subprocess.Popen(words, cwd=place.folder, env=place.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(3)
    ]
    told = [shell.communicate(timeout=200)[0] for shell in shells]
    assert [shell.returncode for shell in shells] == [0, 0, 0], told
    assert len(list(place.runs.iterdir())) == 3


@row("-", "a run that ended, on a cluster that is out of reach or long gone")
def test_a_run_of_a_cluster_long_gone_has_its_place_in_time(place: Workspace) -> None:
    gone = create(place.runs / "gone", record("gone", state="submitted", executor="slurm", job_id="7", scheduler="old"))
    value = json.loads(gone.record_file.read_text())
    gone.record_file.write_text(json.dumps({**value, "updated_at": time.time() - 90 * 86400}))
    place.env["PATH"] = str(place.folder)
    assert place.status("gone")["state"] == "lost" and "for 90 days, when it was queued" in place.status("gone")["reason"]
    for number in range(10):
        create(place.runs / f"new-{number}", record(f"new-{number}", state="finished", submitted_at=10.0 + number))
    shown = json.loads(place.call("status", "--json").stdout)
    assert [one["run"] for one in shown] == [f"new-{number}" for number in range(10)]


@row("-", "notify: command: [./tell-me.sh], as the README writes it")
def test_notifys_program_lies_beside_its_profile_and_is_looked_at_when_submitting(place: Workspace) -> None:
    place.write("clusters/telling.yaml", {"executor": "local", "paths": {"data": "data"}, "notify": {"command": ["./tell-me.sh"]}})
    refused = place.call("submit", "tiny", "--cluster", "telling", check=False)
    assert (
        refused.returncode == 1 and f"{place.folder}/clusters/tell-me.sh: it does not exist" in refused.stderr and not place.runs.exists()
    )
    place.write("clusters/tell-me.sh", "#!/bin/sh\n").chmod(0o755)
    shown = json.loads(place.call("show", "tiny", "--cluster", "telling", "--json").stdout)
    assert shown["cluster"]["notify"]["command"] == [f"{place.folder}/clusters/tell-me.sh"]
