"""Slurm's answers, recorded from real clusters (22.05 unless told), and what is made of them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fvlaunch.errors import SchedulerRefused, SchedulerUnreachable
from fvlaunch.schedulers.slurm import commands as slurm
from fvlaunch.schedulers.slurm.parsing import (
    JobDetails,
    complaint,
    duration_s,
    parse_accounted,
    parse_details,
    parse_queue,
    parse_test_only,
    parse_version,
)
from fvlaunch.schedulers.slurm.states import NoticeCause, explain, why_signalled

RUNNING = """JobId=12 JobName=a b=c JobState=FAILED
   UserId=ann(1000) GroupId=ann(1000) MCS_label=N/A
   Priority=4294901759 Nice=0 Account=(null) QOS=(null)
   JobState=RUNNING Reason=None Dependency=(null)
   Requeue=1 Restarts=2 BatchFlag=1 Reboot=0 ExitCode=0:0
   RunTime=00:00:02 TimeLimit=365-00:00:00 TimeMin=N/A
   SubmitTime=1795252768 EligibleTime=1795252768
   AccrueTime=1795252768
   StartTime=1795252770 EndTime=1826788768 Deadline=N/A
   PreemptEligibleTime=1795252768 PreemptTime=None
   SuspendTime=None SecsPreSuspend=0 LastSchedEval=1795252768 Scheduler=Backfill
   Partition=low AllocNode:Sid=localhost:3255
   ReqNodeList=(null) ExcNodeList=127.0.0.12,127.0.0.13
   NodeList=127.0.0.11
   BatchHost=127.0.0.11
   NumNodes=1 NumCPUs=1 NumTasks=1 CPUs/Task=1 ReqB:S:C:T=0:0:*:*
   TRES=cpu=1,mem=100M,node=1,billing=1
   Socks/Node=* NtasksPerN:B:S:C=0:0:*:* CoreSpec=*
   MinCPUsNode=1 MinMemoryCPU=100M MinTmpDiskNode=0
   Features=(null) DelayBoot=00:00:00
   OverSubscribe=OK Contiguous=0 Licenses=(null) Network=(null)
   Command=/home/ann/x y.sh Restarts=9
   WorkDir=/home/ann/my runs
   Comment=hello | world=x
   JobState=CANCELLED ExitCode=9:0
   StdErr=/dev/null
   StdIn=/dev/null
   StdOut=/home/ann/my runs/12.out
   Power=


"""


def test_every_value_of_scontrol_comes_out_whole() -> None:
    found = parse_details(RUNNING)
    assert found == JobDetails(
        job_id="12",
        name="a b=c JobState=FAILED",
        state="RUNNING",
        reason="",
        restarts=2,
        exit_code="0:0",
        requeue=True,
        submitted_at=1795252768,
        start_at=1795252770,
        end_at=1826788768,
        preempted_at=None,
        nodes="127.0.0.11",
        excluded_nodes="127.0.0.12,127.0.0.13",
        partition="low",
        work_dir="/home/ann/my runs",
        comment="hello | world=x",  # its second line, which pretends to be facts, is not believed
        output="/home/ann/my runs/12.out",
    )


def test_scontrol_without_a_job_is_no_job() -> None:
    assert parse_details("") is None
    assert parse_details("slurm_load_jobs error: Invalid job id specified\n") is None


def test_unknown_times_of_a_waiting_job_are_none() -> None:
    text = "JobId=4 JobName=w\n   JobState=PENDING Reason=JobHeldUser Dependency=(null)\n"
    found = parse_details(text + "   StartTime=Unknown EndTime=Unknown Deadline=N/A\n   NodeList=\n")
    assert found is not None
    assert (found.state, found.reason, found.start_at, found.end_at, found.nodes) == ("PENDING", "JobHeldUser", None, None, "")


def details(state: str, *, reason: str = "", restarts: int = 0, code: str = "0:0", preempted_at: int | None = None) -> JobDetails:
    return JobDetails("1", "n", state, reason, restarts, code, True, 100, 200, 300, preempted_at, "n1", "", "p", "/w", "", "/o")


@pytest.mark.parametrize(
    ("found", "my_restarts", "cause"),
    [
        (details("RUNNING", preempted_at=250), 0, NoticeCause.PREEMPTION),
        (details("RUNNING", restarts=3, preempted_at=250), 3, NoticeCause.PREEMPTION),
        (details("RUNNING", restarts=1, preempted_at=150), 1, NoticeCause.NOTICE),  # before this life's start (200)
        (details("RUNNING"), 0, NoticeCause.NOTICE),
        (details("COMPLETING", reason="TimeLimit"), 0, NoticeCause.TIME_LIMIT),
        (details("TIMEOUT", reason="TimeLimit", code="0:1"), 0, NoticeCause.TIME_LIMIT),
        (details("COMPLETING", restarts=1), 0, NoticeCause.REQUEUED),
        (details("PENDING", reason="BeginTime", restarts=1), 0, NoticeCause.REQUEUED),
        (details("RUNNING", restarts=1), 0, NoticeCause.REQUEUED),  # our successor runs already
        (details("COMPLETING", code="0:15"), 0, NoticeCause.CANCELLED),
        (details("COMPLETING", code="0:0"), 0, NoticeCause.CANCELLED),  # the batch shell's end is not known yet: seen
        (details("COMPLETING", restarts=2, code="0:15"), 2, NoticeCause.CANCELLED),
        (details("CANCELLED", code="0:15"), 0, NoticeCause.CANCELLED),
        (details("COMPLETING", code="0:15", preempted_at=250), 0, NoticeCause.PREEMPTION),  # PreemptMode=CANCEL: seen
        (details("COMPLETING", code="0:15", preempted_at=150), 0, NoticeCause.CANCELLED),  # that was in an earlier life
        (details("COMPLETING", reason="OutOfMemory", code="0:125"), 0, NoticeCause.UNKNOWN),
        (details("SUSPENDED"), 0, NoticeCause.UNKNOWN),
        (None, 0, NoticeCause.UNKNOWN),
    ],
)
def test_the_cause_of_a_signal_is_what_the_scheduler_says_at_that_moment(
    found: JobDetails | None, my_restarts: int, cause: NoticeCause
) -> None:
    assert why_signalled(found, my_restarts) is cause


QUEUE = (
    "3\x1fwrap\x1fFAILED\x1fJobLaunchFailure\x1f127.0.0.11\x1f1795252768\x1f1795252768\x1f1795252768\x1f365-00:00:00\x1f0\x1flow\x1f53\x1f4294901759\x1f(null)\x1f/w\x1e\n"
    "2\x1fwrap\x1fPENDING\x1fDependency\x1f\x1f1795252768\x1fN/A\x1fN/A\x1fUNLIMITED\x1f0\x1flow\x1f0\x1f0\x1f(null)\x1f/w\x1e\n"
    "1\x1fa b=c\x1fRUNNING\x1fNone\x1f127.0.0.11\x1f1795252768\x1f1795252768\x1f1826788768\x1f1-23:59:59\x1f4\x1flow\x1f36608"
    '\x1f4294901757\x1fhi | \x1f=x\nnew "line"\x1f/my runs\x1e\n'
)


def test_a_queue_is_read_whatever_its_comments_hold() -> None:
    found = parse_queue(QUEUE)
    assert list(found) == ["3", "2", "1"]
    assert (found["1"].comment, found["1"].work_dir, found["1"].restarts) == ('hi | \x1f=x\nnew "line"', "/my runs", 4)
    assert found["1"].time_left_s == 2 * 24 * 3600 - 1
    assert (found["2"].start_at, found["2"].time_left_s, found["2"].comment) == (None, None, "")
    assert found["3"].time_left_s is None  # it has ended
    assert [found[job].exit_code for job in "321"] == ["0:53", "0:0", "143:0"]
    assert [found[job].priority for job in "321"] == [4294901759, 0, 4294901757]
    assert parse_queue("") == {}


def test_a_reason_may_hold_spaces_brackets_and_other_letters() -> None:
    reason = "launch failed requeued held (Prolog: Gerät fehlt, n[1-3])"
    line = f"7\x1fwrap\x1fPENDING\x1f{reason}\x1f\x1f1\x1fN/A\x1fN/A\x1f0:00\x1f1\x1flow\x1f0\x1f0\x1f(null)\x1f/w\x1e\n"
    assert parse_queue(line)["7"].reason == reason


def test_all_that_a_command_complains_of_is_told_the_cause_first() -> None:
    said = (
        "squeue: error: If munged is up, restart with --num-threads=10\n"
        'squeue: error: Munge encode failed: Failed to access "/run/munge/munge.socket.2": No such file or directory\n'
        "squeue: error: slurm_send_node_msg: auth_g_create: REQUEST_JOB_INFO has authentication error\n"
        "slurm_load_jobs error: Protocol authentication error\n"
    )
    assert complaint(said) == (
        'Munge encode failed: Failed to access "/run/munge/munge.socket.2": No such file or directory; '
        "slurm_send_node_msg: auth_g_create: REQUEST_JOB_INFO has authentication error; Protocol authentication error; "
        "If munged is up, restart with --num-threads=10"
    )
    assert complaint("slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n\n") == (
        "Unable to contact slurm controller (connect failure)"
    )


def test_all_lives_of_an_accounted_job_are_told_in_order() -> None:
    text = (
        "7\x1fPREEMPTED\x1f0:0\x1f100\x1f110\x1f120\x1fn[1-2]\x1f/w\x1frun\x1ftoken abc\n"
        "7\x1fCANCELLED by 1000\x1f0:15\x1f120\x1f130\x1f140\x1fn1\x1f/w\x1frun\x1ftoken\nabc\n"
        "8\x1fPENDING\x1f0:0\x1f150\x1fUnknown\x1fUnknown\x1fNone assigned\x1f/w\x1frun\x1f\n"
    )
    found = parse_accounted(text)
    assert [(one.state, one.start_at, one.nodes) for one in found["7"]] == [("PREEMPTED", 110, "n[1-2]"), ("CANCELLED", 130, "n1")]
    assert (found["8"][0].start_at, found["8"][0].nodes, found["8"][0].comment) == (None, "", "")


@pytest.mark.parametrize(
    ("code", "stderr", "expected"),
    [
        (
            0,
            "sbatch: Job 6 to start at 2026-11-21T09:23:26 using 1 processors on nodes 127.0.0.11 in partition low\n",
            (True, "2026-11-21T09:23:26", ""),
        ),
        (0, "sbatch: Job 6 to start at Sat 21 Nov 09:23 using 1 processors on nodes n1 in partition low\n", (True, "Sat 21 Nov 09:23", "")),
        (
            1,
            "allocation failure: Requested node configuration is not available\n",
            (False, "", "Requested node configuration is not available"),
        ),
        (
            1,
            "sbatch: error: invalid partition specified: nope\nallocation failure: Invalid partition name specified\n",
            (False, "", "invalid partition specified: nope; Invalid partition name specified"),
        ),
        (255, "sbatch: error: Invalid --time specification\n", (False, "", "Invalid --time specification")),
        (1, "", (False, "", "sbatch ended with 1")),
    ],
)
def test_test_only_is_read_from_stderr_without_understanding_its_date(code: int, stderr: str, expected: tuple[bool, str, str]) -> None:
    found = parse_test_only(code, stderr)
    assert (found.accepted, found.start, found.reason) == expected


def test_durations_and_versions() -> None:
    texts = ["1-02:03:04", "02:03:04", "03:04", "0:00", "UNLIMITED", "INVALID", "NOT_SET", ""]
    assert [duration_s(text) for text in texts] == [93784, 7384, 184, 0, None, None, None, None]
    versions = ["slurm-wlm 22.05.8\n", "slurm 24.11.5", "slurm 23.02.0-0rc1", "what"]
    assert [parse_version(text) for text in versions] == [(22, 5, 8), (24, 11, 5), (23, 2, 0), None]


@pytest.mark.parametrize(
    ("state", "reason", "code", "says"),
    [
        ("PENDING", "BeginTime", "", "two minutes"),
        ("PENDING", "Resources", "", "waits for nodes"),
        ("PENDING", "Priority", "", "sprio -j 12"),
        ("PENDING", "Dependency", "", "depends on to end"),
        ("PENDING", "DependencyNeverSatisfied", "", "scancel 12"),
        ("PENDING", "JobHeldUser", "", "scontrol release 12"),
        ("PENDING", "JobHoldMaxRequeue", "", "scontrol release 12"),
        ("PENDING", "ReqNodeNotAvail, UnavailableNodes:n[1-3]", "", "sinfo -R"),
        ("PENDING", "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved", "", "sinfo -R"),
        ("PENDING", "QOSMaxGRESPerUser", "", "QOSMaxGRESPerUser"),
        ("PENDING", "Some{thing}New", "", "Some(thing)New"),
        ("PENDING", "None", "", "looked at"),
        ("COMPLETING", "", "", "is ending"),
        ("FAILED", "NonZeroExitCode", "0:53", "no log"),
        ("FAILED", "NonZeroExitCode", "3:0", "exit code 3"),
        ("FAILED", "", "0:9", "signal 9"),
        ("FAILED", "JobLaunchFailure", "0:9", "was ended by signal 9"),
        ("FAILED", "JobLaunchFailure", "", "no log"),
        ("FAILED", "JobLaunchFailure", "15:53", "no log"),
        ("CANCELLED by 1000", "", "0:15", "was cancelled (by 1000)"),
        ("TIMEOUT", "TimeLimit", "", "time limit"),
        ("", "", "", "not known to Slurm"),
        ("{x}", "", "", "is (x)"),
    ],
)
def test_a_state_is_told_in_words_with_the_command_that_helps(state: str, reason: str, code: str, says: str) -> None:
    told = explain(state, reason, code, "12")
    assert says in told
    assert told.startswith("job 12 ")


def test_the_environment_of_a_call_keeps_where_slurm_is_and_nothing_else_of_it() -> None:
    base = {
        "PATH": "/bin",
        "SLURM_CONF": "/c",
        "SLURM_JOB_ID": "1",
        "SBATCH_PARTITION": "x",
        "SRUN_CPUS_PER_TASK": "4",
        "SQUEUE_FORMAT": "%i",
    }
    assert slurm.environment(base) == {"PATH": "/bin", "SLURM_CONF": "/c"}


def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int, stderr: str) -> None:
    """A command that only fails as the real one was seen to."""
    script = tmp_path / name
    script.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{stderr}\nEND\nexit {code}\n")
    script.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")


@pytest.mark.parametrize(
    "stderr",
    [
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        "slurm_load_jobs error: Socket timed out on send/recv operation",
        "Unexpected message received for job 1",  # scontrol requeue with no controller
        "scontrol: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host\nscontrol: error: fetch_config: DNS SRV lookup failed",
    ],
)
def test_no_answer_is_never_a_refusal_and_never_a_missing_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str) -> None:
    pretend(tmp_path, monkeypatch, "scontrol", 1, stderr)
    for call in (slurm.requeue, slurm.job, slurm.release):
        with pytest.raises(SchedulerUnreachable):
            call("1")


def test_what_slurm_does_not_want_is_a_refusal_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, monkeypatch, "scontrol", 1, "Access/permission denied for job 1")
    with pytest.raises(SchedulerRefused, match="scontrol requeue 1: Access/permission denied for job 1"):
        slurm.requeue("1")


def test_no_accounts_is_not_the_same_as_accounts_that_do_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, monkeypatch, "sacct", 1, "Slurm accounting storage is disabled")
    assert slurm.accounted(["1"]) is None
    pretend(tmp_path, monkeypatch, "sacct", 1, "sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection")
    with pytest.raises(SchedulerUnreachable):
        slurm.accounted(["1"])
