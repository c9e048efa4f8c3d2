"""What doctor thinks of a site, and of this machine. A real Slurm is asked in tests/integration/slurm/test_doctor.py."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from fvlaunch.cli import app
from fvlaunch.config.schema import Cluster
from fvlaunch.diagnostics import examination
from fvlaunch.diagnostics.site_checks import Finding, Site, Verdict, check_environment, check_gpus, check_node, check_site, worst
from fvlaunch.runs.attempts import Attempt, Cause

CONFIG = {
    "PreemptType": "preempt/partition_prio",
    "PreemptMode": "GANG,REQUEUE",
    "JobRequeue": "1",
    "MinJobAge": "300 sec",
    "KillWait": "30 sec",
    "AccountingStorageType": "accounting_storage/slurmdbd",
    "SlurmctldParameters": "",
}
PARTITION = {"PreemptMode": "REQUEUE", "GraceTime": "300", "MaxTime": "2-00:00:00", "State": "UP", "Default": "YES"}


def found(
    config: dict[str, str] | None = None, partition: dict[str, str] | None = None, slurm: dict[str, Any] | None = None, **profile: Any
) -> dict[str, Finding]:
    cluster = Cluster(executor="slurm", slurm=slurm or {"partition": "main", "time": 60}, **profile)
    site = Site(cluster, {**CONFIG, **(config or {})}, {"main": {**PARTITION, **(partition or {})}}, 20)
    return {one.check: one for one in check_site(site)}


def test_a_site_where_all_is_well_has_nothing_to_cure() -> None:
    assert {one.verdict for one in found().values()} == {Verdict.OK}


def test_accounts_that_give_no_answer_are_a_warning() -> None:
    site = Site(Cluster(executor="slurm", slurm={"partition": "main", "time": 60}), CONFIG, {"main": PARTITION}, 20, "sacct: refused")
    [one] = [one for one in check_site(site) if one.check == "accounting"]
    assert one.verdict is Verdict.WARN and "accounting_storage/slurmdbd, which gives no answer: sacct: refused" in one.found and one.cure


@pytest.mark.parametrize(
    ("config", "partition", "check", "verdict", "words"),
    [
        ({}, {"GraceTime": "10"}, "grace time", Verdict.WARN, "a save takes 20 s (measured)"),
        ({}, {"GraceTime": "0"}, "user signal", Verdict.WARN, "send_user_signal"),
        ({}, {"PreemptMode": "CANCEL"}, "preemption", Verdict.WARN, "PreemptMode=CANCEL"),
        ({"PreemptMode": "CANCEL"}, {"PreemptMode": "CANCEL"}, "preemption", Verdict.WARN, "continue_by: resubmit"),
        ({}, {"PreemptMode": "SUSPEND"}, "preemption", Verdict.WARN, "SUSPEND"),
        ({"PreemptType": "preempt/none"}, {}, "preemption", Verdict.OK, "not preempted"),
        ({"JobRequeue": "0"}, {}, "requeue", Verdict.WARN, "JobRequeue=0"),
        ({"SchedulerParameters": "x=1,max_batch_requeue=2"}, {}, "requeue count", Verdict.WARN, "max_batch_requeue=2"),
        ({"AccountingStorageType": "accounting_storage/none"}, {}, "accounting", Verdict.WARN, "forgets an ended job after 300 s"),
        ({"MinJobAge": "2 sec"}, {}, "MinJobAge", Verdict.WARN, "2 s"),
        ({"KillWait": "5 sec"}, {}, "KillWait", Verdict.OK, "a save took 20 s"),
        ({}, {"State": "DRAIN"}, "partition", Verdict.OK, "main"),
        ({}, {"MaxTime": "00:30:00"}, "time limit", Verdict.FAIL, "more than main's 00:30:00"),
    ],
)
def test_what_is_wrong_with_a_site_is_told_with_its_cure(
    config: dict[str, str], partition: dict[str, str], check: str, verdict: Verdict, words: str
) -> None:
    one = found(config, partition)[check]
    assert one.verdict is verdict and words in f"{one.found} {one.cure}"
    assert one.verdict is Verdict.OK or one.cure


def test_a_partition_that_is_not_there_fails_and_the_others_are_named() -> None:
    one = found(slurm={"partition": "gpu", "time": 60})["partition"]
    assert one.verdict is Verdict.FAIL and "'gpu'" in one.found and "main" in one.cure


def test_a_profile_that_resubmits_needs_no_requeue() -> None:
    said = found({"JobRequeue": "0"}, {"PreemptMode": "CANCEL"}, continue_by="resubmit")
    assert said["continue_by"].verdict is Verdict.OK
    plain = found({"JobRequeue": "0"})["continue_by"]
    assert plain.verdict is Verdict.WARN and plain.cure == "continue_by: resubmit"
    assert found()["continue_by"].found == "requeue" and "too" in found(continue_by="resubmit")["continue_by"].found
    assert said["preemption"].verdict is said["requeue"].verdict is Verdict.OK and "submitted again" in said["preemption"].found


def test_a_notice_that_comes_too_late_is_told() -> None:
    late = found({"KillWait": "5 sec"}, limits={"notice_lead_s": 10})["KillWait"]
    assert late.verdict is Verdict.WARN and "notice_lead_s" in late.cure


def test_several_partitions_are_judged_each() -> None:
    cluster = Cluster(executor="slurm", slurm={"partition": "main,spot", "time": 60})
    partitions = {"main": PARTITION, "spot": {**PARTITION, "PreemptMode": "CANCEL"}}
    said = [one.found for one in check_site(Site(cluster, CONFIG, partitions, 20)) if one.check == "preemption"]
    assert len(said) == 1 and said[0].startswith("spot")


@pytest.mark.parametrize(
    ("variables", "nodes", "words"),
    [
        ({"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "0"}, 1, "NCCL_P2P_DISABLE=1"),
        ({"NCCL_DEBUG": "INFO"}, 1, "NCCL_DEBUG=INFO"),
        ({"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0"}, 1, "=0"),
        ({"GLOO_SOCKET_IFNAME": "ib0"}, 2, "NCCL_SOCKET_IFNAME"),
        ({"NCCL_SOCKET_IFNAME": "ib0"}, 2, "GLOO_SOCKET_IFNAME"),
        ({"NCCL_SOCKET_IFNAME": "ib0", "GLOO_SOCKET_IFNAME": ""}, 8, "GLOO_SOCKET_IFNAME"),
    ],
)
def test_variables_that_hurt_are_told(variables: dict[str, str], nodes: int, words: str) -> None:
    [one] = check_environment(variables, nodes)
    assert one.verdict is Verdict.WARN and words in one.found and one.cure
    assert list(check_environment({"NCCL_DEBUG": "WARN", "NCCL_SOCKET_IFNAME": "ib0", "GLOO_SOCKET_IFNAME": "ib0"}, 2)) == []
    assert list(check_environment({}, 1)) == []


def test_what_a_node_says_is_held_against_this_machine() -> None:
    good = {"host": "n1", "python": "3.11.2", "torch": "2.9", "gpus": 8, "gpu": "H100", "scontrol": True}
    assert worst(list(check_node(good, {"torch": "2.9"}, True))) is Verdict.OK
    [python, *_] = check_node(good, {"torch": "2.10"}, True)
    assert python.verdict is Verdict.WARN and "here 2.10" in python.found
    assert worst(list(check_node({**good, "gpus": 0}, {}, True))) is Verdict.FAIL
    assert any("continue_by" in one.cure for one in check_node({**good, "scontrol": False}, {}, True))
    [failed] = check_node({"error": "Traceback\nModuleNotFoundError: No module named 'torch'"}, {}, True)
    assert failed.verdict is Verdict.FAIL and failed.found == "ModuleNotFoundError: No module named 'torch'"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("STATE", "CONFIG"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / "home" / name))
    for name in [name for name in os.environ if name.startswith("NCCL_")]:
        monkeypatch.delenv(name)
    (tmp_path / "clusters").mkdir()
    return tmp_path


def profile(name: str, **values: Any) -> None:
    Path(f"clusters/{name}.yaml").write_text(yaml.safe_dump({"paths": {"data": "data"}, **values}))


def test_this_machine_is_looked_at_with_the_profiles_python_and_setup(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile("here", executor="local", setup="export SEEN=1", runs_dir="deep/runs", secrets=["HERE_TOKEN"])
    assert app.run(["doctor", "--cluster", "here", "--json"]) == 0
    said = {one["check"]: one for one in json.loads(capsys.readouterr().out)}
    assert said["python on a node"]["verdict"] == "OK" and "torch 2" in said["python on a node"]["found"]
    assert said["secrets"]["verdict"] == "WARN" and "HERE_TOKEN" in said["secrets"]["cure"]
    assert list((folder / "deep/runs").iterdir()) == []
    profile("broken", executor="local", python="/bin/false")
    assert app.run(["doctor", "--cluster", "broken"]) == 1
    shown = capsys.readouterr()
    assert "FAIL" in shown.out and "setup or container" in shown.err


def test_a_cluster_without_slurm_here_fails_without_a_traceback(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    profile("lab", executor="slurm")
    assert app.run(["doctor", "--cluster", "lab"]) == 1
    assert "sbatch is not on PATH" in capsys.readouterr().out


def test_the_measured_save_is_the_longest_of_that_cluster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Known:
        def __init__(self, cluster: str, save_s: float | None) -> None:
            self.cluster, self.save_s = cluster, save_s

        def record(self) -> Any:
            return self

    def attempts(run: Known) -> list[Attempt]:
        return [Attempt(1, 1, "1", (), 0, 1, Cause.FINISHED, None, 1, save_s=run.save_s)]

    monkeypatch.setattr(
        examination.registry, "known", lambda _folders: [Known("lab", 3), Known("lab", 9), Known("lab", None), Known("other", 50)]
    )
    monkeypatch.setattr(examination, "read_attempts", attempts)
    assert examination.measured_save("lab") == 9 and examination.measured_save("none") is None


@pytest.mark.parametrize(
    ("profile", "told"),
    [
        ({"slurm": {"partition": "main"}}, True),
        ({"slurm": {"exclusive": True}, "ranks_per_node": 8}, True),
        ({"slurm": {"gpus-per-node": 8}}, False),
        ({"slurm": {"gres": "mps:50"}}, False),
        ({"slurm": {"exclusive": True}, "device": "gpu"}, False),
        ({"slurm": {"partition": "main"}, "device": "cpu"}, False),
    ],
)
def test_a_profile_that_asks_for_no_gpu_and_does_not_say_what_is_meant_is_told(profile: dict[str, Any], told: bool) -> None:
    findings = list(check_gpus(Cluster(executor="slurm", **profile)))
    assert [one.verdict for one in findings] == [Verdict.WARN] * told
    assert all("device: gpu" in one.cure and "device: cpu" in one.cure for one in findings)
