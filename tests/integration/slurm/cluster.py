"""Owns a real Slurm inside one directory: munged, slurmctld and a slurmd for each pretended node, on loopback only.

Must not read or write anything in /etc, and must end only processes that belong to its own directory (their environment
names it). Works as root and as an ordinary user, with the forms of Slurm 22.05 and of 24.11.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from tests.integration.slurm import accounting as accounts
from tests.integration.slurm import processes
from tests.integration.slurm.cluster_files import MEMORY_LIMITS, Shape, missing_programs, remove_control_groups, search_path, write_files
from tests.support.ports import free_ports

_ACTIVE = "PENDING,CONFIGURING,RUNNING,COMPLETING,SUSPENDED,REQUEUED,REQUEUE_HOLD,SPECIAL_EXIT,SIGNALING,STAGE_OUT,STOPPED"
PATIENCE_S = 120
"""For whatever a test waits for: a machine that does other things beside is slow, and only a failure takes that long."""


class SlurmCluster:
    """A cluster to submit to: `with SlurmCluster() as slurm: slurm.sbatch("--wrap", "hostname")`.

    nodes, cpus, memory_mb, gpus   what each node pretends to have (gpus: device files that nobody opens)
    grace_s                        GraceTime of partition `low`: from the SIGTERM of a preemption to its SIGKILL
    kill_wait_s                    from the SIGTERM of a time limit, cancel or requeue to the SIGKILL
    quick_requeue                  a requeued job waits (BeginTime) for seconds by Slurm's own rule; a thread lets it start at once.
                                   May be switched on and off at any time, to look at a job that waits
    accounting                     with slurmdbd and its database, so that sacct answers (5 s more)
    memory_limits                  a job that takes more memory than it asked for is killed, by control groups of version 1 (root only)
    extra                          more lines for slurm.conf (a later line wins over an earlier one only where Slurm says so)
    """

    def __init__(
        self,
        nodes: int = 2,
        *,
        cpus: int = 8,
        memory_mb: int = 4000,
        gpus: int = 0,
        grace_s: int = 3,
        kill_wait_s: int = 2,
        quick_requeue: bool = True,
        accounting: bool = False,
        memory_limits: bool = False,
        extra: Sequence[str] = (),
    ) -> None:
        self.nodes = [f"127.0.0.{11 + index}" for index in range(nodes)]
        self.cpus, self.memory_mb, self.gpus = cpus, memory_mb, gpus
        self.grace_s, self.kill_wait_s, self.quick_requeue = grace_s, kill_wait_s, quick_requeue
        self.accounting, self.memory_limits = accounting, memory_limits
        self.extra = [*extra, *(["TaskPlugin=task/cgroup"] if memory_limits else [])]
        self.directory = Path()
        self.env: dict[str, str] = {}
        self.start_s = 0.0
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._controller_port = self._accounts_port = 0
        self._over_at, self._killing_until = dict[str, float](), 0.0
        self._ended = threading.Event()
        self._poker: threading.Thread | None = None

    def __enter__(self) -> SlurmCluster:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- starting and stopping

    def start(self) -> SlurmCluster:
        if missing := missing_programs():
            raise RuntimeError(f"not installed: {', '.join(missing)} (apt-get install slurm-wlm munge)")
        if self.accounting and (missing := accounts.missing_programs()):
            raise RuntimeError(f"not installed: {', '.join(missing)} ({accounts.INSTALL})")
        began = time.monotonic()
        self.directory = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self.directory.chmod(0o711)  # munged wants every parent of its socket searchable by others
        self.env = self._environment()
        try:
            self._write_files()
            self.start_munge()
            if self.accounting:
                self._start_accounting()
            self.start_ctld()  # before the nodes: one that finds no controller tries again a second later
            for node in self.nodes:
                self.start_slurmd(node, wait=False)
            self._until(self._all_nodes_idle, PATIENCE_S, "the nodes did not become idle")
        except BaseException:
            self.stop()
            raise
        self._poker = threading.Thread(target=self._poke_requeued, daemon=True)
        self._poker.start()
        self.start_s = time.monotonic() - began
        return self

    def stop(self) -> None:
        """End all that this cluster started, jobs first, and remove its directory."""
        self._ended.set()
        if self._poker is not None:
            self._poker.join(15)
        with contextlib.suppress(subprocess.SubprocessError, AssertionError):
            if self._alive("slurmctld"):
                self.cancel_all(timeout_s=5)
        for name in sorted(self._daemons, key=lambda name: (name == "munged", name == "mariadbd", name)):
            self._end(name)
        processes.kill(self._own_processes())
        for node in self.nodes if self.memory_limits else ():
            remove_control_groups(node)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _environment(self) -> dict[str, str]:
        kept = {
            key: value for key, value in os.environ.items() if not re.match(r"(SLURM|SBATCH|SRUN|SQUEUE|SALLOC|SACCT|SCANCEL|SINFO)_", key)
        }
        own = {"SLURM_CONF": str(self.directory / "slurm.conf"), processes.MARK: str(self.directory)}
        database = accounts.environment(self.directory) if self.accounting else {}
        return {**kept, **own, **database, "PATH": search_path(), "LC_ALL": "C.UTF-8"}

    def _write_files(self) -> None:
        self._controller_port, self._accounts_port, *node_ports = free_ports(2 + len(self.nodes))
        extra = [*(accounts.slurm_lines(self.directory, self._accounts_port) if self.accounting else []), *self.extra]
        shape = Shape(self.nodes, self.cpus, self.memory_mb, self.gpus, self.grace_s, self.kill_wait_s, extra)
        write_files(self.directory, shape, self._controller_port, node_ports)
        if self.memory_limits:
            (self.directory / "cgroup.conf").write_text(MEMORY_LIMITS)

    def stop_munge(self) -> None:
        """No client or daemon can prove who it is."""
        self._end("munged")

    def start_munge(self) -> None:
        here = self.directory
        paths = [f"--key-file={here}/munge.key", f"--socket={here}/munge.sock", f"--seed-file={here}/munge.seed"]
        paths += [f"--log-file={here}/log/munged.log", f"--pid-file={here}/run/munged.pid"]
        self._spawn("munged", "munged", "-F", "--num-threads=2", *paths)
        self._until(
            self._munge_answers, PATIENCE_S, "munged did not open its socket"
        )  # a slurmd that fails to authenticate backs off for seconds

    def _munge_answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as one:
            return one.connect_ex(str(self.directory / "munge.sock")) == 0

    def _start_accounting(self) -> None:
        accounts.write_files(self.directory, self._accounts_port, self.env)
        self._spawn("mariadbd", *accounts.database_argv(self.directory))
        self._until((self.directory / "mysql.sock").exists, PATIENCE_S, "the database did not start")
        self.start_dbd()
        self.run("sacctmgr", "-i", "add", "cluster", "test")

    def start_dbd(self) -> None:
        self._spawn("slurmdbd", "slurmdbd", "-D")
        self._until(lambda: self._listens("slurmdbd", self._accounts_port), PATIENCE_S, "slurmdbd does not answer")

    def stop_dbd(self) -> None:
        """The accounts are gone; slurmctld keeps what it has to tell them until they are back."""
        self._end("slurmdbd")

    def _spawn(self, name: str, *argv: str, node: str = "", inside: Sequence[str] = ()) -> None:
        program = shutil.which(argv[0], path=search_path())
        assert program is not None
        with (self.directory / "log" / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                [*inside, program, *argv[1:]],
                env={**self.env, processes.NODE_MARK: node},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _alive(self, name: str) -> bool:
        return name in self._daemons and self._daemons[name].poll() is None

    def _end(self, name: str, how: int = signal.SIGTERM) -> None:
        daemon = self._daemons.pop(name, None)
        if daemon is None:
            return
        daemon.send_signal(signal.SIGCONT)  # one that a test stopped hears nothing else
        daemon.send_signal(how)
        try:
            daemon.wait(5)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    # --- asking and telling

    def run(self, *argv: str, timeout_s: float = PATIENCE_S, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            argv, env=self.env, cwd=self.directory, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL
        )
        assert not check or done.returncode == 0, f"{' '.join(argv)}: rc {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
        return done

    def sbatch(self, *argv: str) -> str:
        """Submit with sbatch's own arguments; the job id."""
        return self.run("sbatch", "--parsable", *argv).stdout.strip().split(";")[0]

    def state(self, job_id: str) -> str:
        """The job's state as squeue has it; "" once Slurm has forgotten the job."""
        return self.run("squeue", "-h", "-t", "all", "-j", job_id, "-o", "%T", check=False).stdout.strip()

    def reason(self, job_id: str) -> str:
        return self.run("squeue", "-h", "-t", "all", "-j", job_id, "-o", "%r", check=False).stdout.strip()

    def facts(self, job_id: str) -> dict[str, str]:
        """`scontrol show job` as words; values with spaces are cut."""
        shown = self.run("scontrol", "show", "job", job_id, check=False).stdout
        return dict(re.findall(r"(\S+?)=(\S*)", shown))

    def restarts(self, job_id: str) -> int:
        return int(self.facts(job_id)["Restarts"])

    def wait_state(self, job_id: str, states: str | Iterable[str], timeout_s: float = PATIENCE_S) -> str:
        """Wait until the job is in one of the states; which one."""
        wanted = {states} if isinstance(states, str) else set(states)
        self._until(lambda: self.state(job_id) in wanted, timeout_s, lambda: f"job {job_id} is {self._describe(job_id)}, not {states}")
        return self.state(job_id)

    def wait_restart(self, job_id: str, restarts: int, timeout_s: float = PATIENCE_S, states: Collection[str] = ("RUNNING",)) -> None:
        """Wait until the job runs, or is in another of `states`, in a life after at least so many restarts."""

        def runs() -> bool:  # one question: a state and a count asked one after the other may be of two lives
            facts = self.facts(job_id)
            return facts.get("JobState") in states and int(facts["Restarts"]) >= restarts

        self._until(runs, timeout_s, lambda: f"job {job_id} is {self._describe(job_id)}, not running with Restarts={restarts}")

    def jobs(self) -> list[str]:
        """Jobs that have not ended, one text each: id, name, state, reason."""
        return self.run("squeue", "-h", "-t", _ACTIVE, "-o", "%i %j %T %r").stdout.splitlines()

    def cancel_all(self, timeout_s: float = PATIENCE_S) -> None:
        if jobs := [line.split()[0] for line in self.jobs()]:
            self.run("scancel", *jobs, check=False)
            self._until(lambda: not self.jobs(), timeout_s, lambda: f"jobs do not end: {self.jobs()}")

    def preempt(self, job_id: str, hold_s: float = 0.5) -> str:
        """Take all nodes of a running job for a job in `high` that lasts `hold_s`; its id. Returns once it is submitted."""
        found = self.run("squeue", "-h", "-j", job_id, "-o", "%N").stdout.strip()
        nodes = self.run("scontrol", "show", "hostnames", found).stdout.split()
        shape = [f"--nodelist={','.join(nodes)}", f"--nodes={len(nodes)}", "--exclusive", "--mem=0"]
        return self.sbatch("-p", "high", "-J", "preemptor", "-o", "/dev/null", "--no-requeue", *shape, "--wrap", f"sleep {hold_s}")

    def requeue_now(self, job_id: str) -> None:
        """What an administrator does: requeue, and let it start without the usual wait."""
        before = self.restarts(job_id)
        self.run("scontrol", "requeue", job_id)
        self._until(
            lambda: self._start_if_over(job_id) or (self.restarts(job_id) > before and self.state(job_id) == "RUNNING"),
            PATIENCE_S,
            "not requeued",
        )

    def start_waiting(self, job_id: str) -> None:
        """Let a requeued job that waits for its begin time start, as soon as it safely can."""
        self._until(lambda: self._start_if_over(job_id) or self.state(job_id) == "RUNNING", PATIENCE_S, "not started")

    def _start_if_over(self, job_id: str) -> bool:
        """Let a requeued job start, once nothing of its last life runs and the clock has gone to another second.

        Slurm's own wait has two reasons: an srun of the last life that is still about to end takes a step of the next
        life with it, and a slurmd that ended a job refuses ("already killed") what was issued within that second.
        """
        if self.state(job_id) != "PENDING" or time.monotonic() < self._killing_until or self._runs_something(job_id):
            self._over_at.pop(job_id, None)
            return False
        if int(time.time()) <= int(self._over_at.setdefault(job_id, time.time())):
            return False
        self._over_at.pop(job_id, None)
        self._start_now(job_id)
        return True

    def _runs_something(self, job_id: str) -> bool:
        for pid in self._own_processes():
            with contextlib.suppress(OSError):
                environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                if f"SLURM_JOB_ID={job_id}".encode() in environment or f"[{job_id}.".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return True
        return False

    def _start_now(self, job_id: str) -> None:
        self.run("scontrol", "update", f"jobid={job_id}", "StartTime=now", check=False)  # it may run already

    def end_in(self, job_id: str, seconds: int) -> None:
        """Move the time limit of a running job. Slurm looks at limits every 30 s only."""
        self.run("scontrol", "update", f"jobid={job_id}", f"EndTime=now+{seconds}seconds")

    def node_down(self, node: str) -> None:
        """Slurm does not wait for its slurmd, which after KillWait kills whatever it finds of its jobs: a next life too."""
        self._killing_until = time.monotonic() + self.kill_wait_s + 1
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def node_up(self, node: str) -> None:
        self.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)  # refused where it is up already
        self._until(lambda: self._node_states().get(node) in ("idle", "mixed", "allocated"), PATIENCE_S, f"node {node} stays down")

    def kill_slurmd(self, node: str, *, jobs: bool = True) -> None:
        """The node is lost: slurmd killed, and with it (unless told otherwise) all that its jobs run there.

        Slurm notices after more than 30 s, or when it comes back without them.
        """
        self._end(f"slurmd-{node}", signal.SIGKILL)
        if jobs:
            processes.kill(self._own_processes(node))

    def start_slurmd(self, node: str, *, wait: bool = True, inside: Sequence[str] = ()) -> None:
        """Start a node's daemon; `inside`: a command that runs the one after it, in a mount namespace for instance."""
        self._spawn(f"slurmd-{node}", "slurmd", "-D", "-N", node, node=node, inside=inside)
        if wait:
            self.node_up(node)

    def stop_ctld(self, how: int = signal.SIGTERM) -> None:
        """The controller is gone; nodes and jobs go on."""
        self._end("slurmctld", how)

    def start_ctld(self) -> None:
        self._spawn("slurmctld", "slurmctld", "-D", "-i")
        self._until(lambda: self._listens("slurmctld", self._controller_port), PATIENCE_S, "slurmctld does not answer")

    def _listens(self, name: str, port: int) -> bool:
        """Asked without a client: one that is refused tries again only a second later."""
        assert self._alive(name), f"{name} ended:\n{self._log_of(name)}"
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", port)) == 0

    @property
    def controller_pid(self) -> int:
        return self._daemons["slurmctld"].pid

    def pause_ctld(self) -> None:
        """The controller hangs: connections are taken, nothing is answered."""
        self._daemons["slurmctld"].send_signal(signal.SIGSTOP)

    def resume_ctld(self) -> None:
        self._daemons["slurmctld"].send_signal(signal.SIGCONT)

    # --- inner parts

    def _node_states(self) -> dict[str, str]:
        done = self.run("sinfo", "-h", "-N", "-o", "%N %T", check=False)
        return dict(line.split()[:2] for line in done.stdout.splitlines() if len(line.split()) >= 2)

    def _all_nodes_idle(self) -> bool:
        for name, daemon in self._daemons.items():
            assert daemon.poll() is None, f"{name} ended with {daemon.returncode}:\n{self._log_of(name)}"
        return [self._node_states().get(node) for node in self.nodes] == ["idle"] * len(self.nodes)

    def _log_of(self, name: str) -> str:
        texts = [path.read_text(errors="replace") for path in sorted((self.directory / "log").glob(f"{name}*"))]
        return "\n".join(text[-1500:] for text in texts)

    def _describe(self, job_id: str) -> str:
        return f"{self.state(job_id) or 'unknown to Slurm'} ({self.reason(job_id)})"

    def report(self, job_id: str) -> str:
        """For a test that failed: all jobs, what runs of this one, and what the daemons and the job wrote of it."""
        facts = self.facts(job_id)
        wrote = Path(facts.get("StdOut", "/nowhere"))
        texts = [f"job {job_id}: {facts}", *self.jobs(), f"processes: {[processes.command(pid) for pid in self._own_processes()]}"]
        texts += [wrote.read_text(errors="replace")] if wrote.is_file() else []
        for path in sorted((self.directory / "log").glob("*.log")):
            texts += [f"{path.name}: {line}" for line in path.read_text(errors="replace").splitlines() if job_id in line][-40:]
        return "\n".join(texts)

    def _until(self, true: Callable[[], bool], timeout_s: float, otherwise: str | Callable[[], str]) -> None:
        deadline = time.monotonic() + timeout_s
        while not true():
            if time.monotonic() > deadline:
                raise AssertionError(f"{otherwise if isinstance(otherwise, str) else otherwise()} after {timeout_s:g} s")
            time.sleep(0.03)

    def _poke_requeued(self) -> None:
        """Start requeued jobs at once. Only those: a job that asked for --begin in its first life keeps waiting."""
        while not self._ended.wait(0.3):
            if not self.quick_requeue or not self._alive("slurmctld"):
                continue
            with contextlib.suppress(subprocess.SubprocessError):
                done = self.run("squeue", "-h", "-t", "PENDING", "-O", "JobID:20,RestartCnt:10,Reason:20", check=False)
                for job_id, restarts, reason in (line.split()[:3] for line in done.stdout.splitlines() if len(line.split()) >= 3):
                    if reason == "BeginTime" and restarts != "0":
                        self._start_if_over(job_id)

    def _own_processes(self, node: str | None = None) -> list[int]:
        return processes.of_cluster(self.directory, node)
