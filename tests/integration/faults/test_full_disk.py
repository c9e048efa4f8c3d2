"""A run outlives its records: full, read-only and vanished disks under runs and under commands. A small disk of the test's own."""

from __future__ import annotations

import errno
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.faults.local import LocalRuns, kill, until_saved
from tests.support.gates import Gate
from tests.support.launcher import LIMITS
from tests.support.rows import Figures, fault
from tests.support.small_disk import SmallDisk, refusing_writes, small_disk

KB = 24_000
"""Room for the code of two runs and their checkpoints."""


class Full(LocalRuns):
    """Runs on a disk of their own; their gates are on another."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.write("clusters/short.yaml", {"executor": "local", "paths": {"data": "data"}, "limits": {**LIMITS, "phase_s": 40}})

    def gated(self, name: str, cluster: str = "here") -> Gate:
        self.submit(name, recipe="gated", cluster=cluster)
        gate = self.gate(name)
        gate.move(self.folder / "gates" / name)
        return gate

    def said(self, name: str) -> str:
        return "".join(path.read_text() for path in (self.runs / name).glob("job/*/*_log.out"))

    def events(self, name: str, attempt: int = 1) -> list[dict[str, Any]]:
        text = (self.runs / name / "attempts" / f"{attempt:04d}.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def tells(self, name: str, *words: str) -> dict[str, Any]:
        """Wait until the status of a run has these words in its reason."""
        found: dict[str, Any] = {}

        def told() -> bool:
            found.update(self.status(name))
            return all(word in found["reason"] for word in words)

        self.until(told, f"the reason of {name} says {words}: {found}", timeout_s=60)
        return found


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Full, SmallDisk]]:
    """A workspace whose runs lie on a small disk."""
    folder = tmp_path_factory.mktemp("full")
    with small_disk(folder / "runs", kb=KB) as disk:
        yield Full(folder), disk


@pytest.fixture
def local_on(full: tuple[Full, SmallDisk]) -> Iterator[Full]:
    yield full[0]
    full[1].back()
    full[1].empty()
    for run in full[0].runs.glob("*"):
        full[0].call("cancel", run.name, check=False)
        full[0].is_gone(run.name)
        shutil.rmtree(run)


@pytest.fixture
def disk(full: tuple[Full, SmallDisk], local_on: Full) -> SmallDisk:
    return full[1]


@fault("32", "a disk full, read-only, and full at a restart, under one run on two ranks")
@fault("33", "the room of a run's disk taken in mid-run, and given back")
def test_a_run_outlives_a_full_and_a_read_only_disk_and_ends_bitwise(
    local_on: Full, disk: SmallDisk, reference: Path, figure: Figures
) -> None:
    gate = local_on.gated("one")
    until_saved(local_on, "one", gate.reach(12, ranks=2))
    disk.fill()
    gate.reach(22, ranks=2)
    assert local_on.status("one")["state"] == "running"
    disk.empty()
    until_saved(local_on, "one", gate.reach(32, ranks=2))
    disk.read_only()
    gate.reach(42, ranks=2)
    local_on.tells("one", "its records cannot", "Read-only file system", "df ")
    disk.back()
    local_on.until(lambda: any(event["event"] == "unwritten" for event in local_on.events("one")), "what was kept is written")
    disk.fill()
    kill(local_on.rank_pids("one", 2)[1])
    status = local_on.tells("one", "its next attempt waits for room", "No space left on device")
    assert status["state"] == "running"
    disk.empty()
    gate.open()
    local_on.ended_as("one", reference)
    events = local_on.events("one")
    assert [event["time"] for event in events if event["event"] != "unwritten"] == sorted(
        event["time"] for event in events if event["event"] != "unwritten"
    )
    assert [a["cause"] for a in local_on.attempts("one")] == ["crash", "finished"]
    said = local_on.said("one")
    assert said.count("The run goes on;") == said.count("records are written again") and "Traceback" not in said
    figure.count("bitwise", 1, 1)


@fault("32", "no room for another attempt within the limit")
@pytest.mark.long
def test_an_attempt_that_finds_no_room_within_the_limit_ends_the_run_in_words(local_on: Full, disk: SmallDisk) -> None:
    gate = local_on.gated("two", cluster="short")
    gate.reach(3, ranks=2)
    disk.fill()
    kill(*local_on.rank_pids("two", 2).values())
    status = local_on.over("two", "failed")
    assert re.match(
        r"attempt 2 could not begin for .* minutes \(limits.phase_s: 40\): .*No space left on device; make room", status["reason"]
    )
    assert [a["cause"] for a in local_on.attempts("two")] == ["crash"]
    assert "Traceback" not in local_on.said("two")
    disk.empty()
    gate.open()
    local_on.call("resume", "two")
    local_on.over("two", "finished")


@fault("32", "cancel of a run whose disk is full or read-only")
@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_cancel_needs_no_room(local_on: Full, disk: SmallDisk, kind: str) -> None:
    gate = local_on.gated(kind)
    gate.reach(3, ranks=2)
    (disk.fill if kind == "full" else disk.read_only)()
    if kind == "read-only":
        refused = local_on.call("stop", kind, check=False)
        assert refused.returncode == 1 and "cannot be told to stop" in refused.stderr and f"fvlaunch cancel {kind}" in refused.stderr, (
            refused
        )
    local_on.call("cancel", kind)
    local_on.is_gone(kind)
    disk.back()
    disk.empty()
    status = local_on.finish(kind)
    assert status["state"] in (("cancelled",) if kind == "full" else ("cancelled", "stopped")) and status["attempts"] == 1, status


@fault("32", "stop of a run whose disk is full")
def test_stop_needs_no_room_of_its_own(local_on: Full, disk: SmallDisk) -> None:
    gate = local_on.gated("four")
    gate.reach(12, ranks=2)
    disk.fill()
    local_on.call("stop", "four")
    local_on.over("four", "stopped")
    reason = local_on.status("four")["reason"]
    assert reason.startswith("fvlaunch stop; rank ") and "could not be written" in reason and "No space left on device" in reason, reason


LOOKS = (
    "status done", "status --all", "status done --attempts", "status done --json", "list runs", "logs done", "logs done --agent",
    "wait done", "attach done", "diff done gated", "show gated",
)  # fmt: skip
REFUSED = (
    "submit gated --cluster here --name new", "submit shapes --cluster here --name pipe", "resume done --set train.max_steps=70",
    "submit tiny --cluster here --smoke",
)  # fmt: skip
IN_A_ROW = """
import sys
from fvlaunch.cli.app import run
for words in sys.argv[1:]:
    code = run(words.split())
    sys.stdout.flush()
    print(f"=={words}: {code}", file=sys.stderr, flush=True)
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> LocalRuns:
    """A workspace with a run that is over, which nothing here changes."""
    workspace = LocalRuns(tmp_path_factory.mktemp("done"))
    workspace.submit("done")
    workspace.over("done", "finished")
    return workspace


@fault("32", "every command where no file can be made: ENOSPC, EROFS, EDQUOT, EIO, ESTALE, EACCES")
@pytest.mark.parametrize(
    "code",
    [
        errno.ENOSPC,
        errno.ESTALE,
        *(pytest.param(one, marks=pytest.mark.long) for one in (errno.EROFS, errno.EDQUOT, errno.EIO, errno.EACCES)),
    ],
)
def test_where_no_file_can_be_made_commands_look_or_refuse_in_one_line_and_leave_nothing(done: LocalRuns, code: int) -> None:
    before = sorted(done.folder.rglob("*"))
    answer = subprocess.run(
        [sys.executable, "-c", IN_A_ROW, *LOOKS, *REFUSED], cwd=done.folder, env=done.env, text=True, capture_output=True,
        stdin=subprocess.DEVNULL, preexec_fn=refusing_writes(code), check=False, timeout=200,
    )  # fmt: skip
    assert "Traceback" not in answer.stderr, answer.stderr
    said = dict(zip([*LOOKS, *REFUSED], re.split(r"(?m)^==.*: \d+\n", answer.stderr), strict=False))
    codes = [int(code) for code in re.findall(r"(?m)^==.*: (\d+)$", answer.stderr)]
    assert codes == [0] * len(LOOKS) + [1] * len(REFUSED), answer.stderr
    assert all(said[words].count("error:") == 1 and str(done.runs) in said[words] for words in REFUSED), said
    assert sorted(done.folder.rglob("*")) == before


@fault("32", "the disk of a running run is away for a while; another run's folder is removed")
def test_a_run_waits_for_a_disk_that_is_away_and_ends_where_its_folder_was_removed(local_on: Full, disk: SmallDisk) -> None:
    gate = local_on.gated("away")
    gate.reach(12, ranks=2)
    agent = local_on.agent_pid("away")
    disk.gone()
    local_on.until(lambda: "No such file" in Path(f"/proc/{agent}/fd/2").read_text(), "its agent says what is wrong")
    disk.back()
    gate.reach(22, ranks=2)
    shutil.rmtree(local_on.runs / "away")
    local_on.until(lambda: not Path(f"/proc/{agent}").exists(), "its agent ends", timeout_s=60)
    local_on.is_gone("away")
