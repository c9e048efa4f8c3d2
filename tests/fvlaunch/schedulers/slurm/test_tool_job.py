"""A job that is waited for: sbatch that hangs is not waited for without end, and what was shown of a log is not read again."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from fvlaunch.errors import SchedulerUnreachable
from fvlaunch.schedulers.base import ToolSpec
from fvlaunch.schedulers.slurm import site, submission, tool_job
from fvlaunch.schedulers.slurm.tool_job import GrowingLog


def stand_in(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "bin").mkdir()
    (folder / "bin/sbatch").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "bin/scontrol").write_text("#!/bin/sh\necho 'ClusterName = here'\n")
    for name in ("sbatch", "scontrol"):
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setattr(site, "_known", [])
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
    monkeypatch.chdir(folder)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("then", ["sleep 600", "printf 47; sleep 600", "exec >&-; sleep 600"], ids=["silent", "half a line", "closed"])
def test_an_sbatch_that_says_nothing_is_given_up_and_killed_with_what_it_started(
    then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, then, monkeypatch)
    monkeypatch.setattr(submission, "SBATCH_WAIT_S", 0.5)
    with pytest.raises(SchedulerUnreachable, match="sbatch gave no answer"):
        tool_job.run_tool(ToolSpec("sample", ["true"]))


def test_a_job_that_is_waited_for_gives_its_output_and_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running = 'sed -n "s/^#SBATCH --output=//p" script | { read -r log; sed "s/^srun --ntasks=1 //" script | sh >"$log"; }'
    stand_in(tmp_path, f"echo '47;here'; cat >script; {running}; sleep 600", monkeypatch)
    assert tool_job.run_tool(ToolSpec("sample", ["sh", "-c", "echo made; exit 3"], cluster="lab")) == 3
    told = capsys.readouterr()
    assert told.out == "made\n" and "job 47 on lab" in told.err
    assert [path.name for path in tmp_path.glob(".fvlaunch-*")] == []


def read_by_this_process() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def test_only_what_has_come_since_is_read(tmp_path: Path) -> None:
    path, stream = tmp_path / "log", io.StringIO()
    path.write_bytes(b"x" * 5_000_000)
    log = GrowingLog(path, stream)
    log.show()
    before = read_by_this_process()
    with path.open("ab") as file:
        file.write("after\nü".encode()[:-1])
    log.show()
    with path.open("ab") as file:
        file.write("ü".encode()[1:])
    log.show()
    assert read_by_this_process() - before < 100_000
    assert stream.getvalue() == "x" * 5_000_000 + "after\nü"
