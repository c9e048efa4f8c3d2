"""Owns the attempts of a run on the job's first node: begins them, judges their ends, and acts.

Must not write once a later attempt is current, nor end because a record cannot be written: attempt_records.py keeps it then, and
room_wait.py waits for what an attempt cannot begin without.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from ..config import secrets as secret_values
from ..errors import FvlaunchError
from ..files import read_json
from ..runs.attempts import Attempt, Cause, Failure
from ..runs.directory import FINAL_STATES, Intent, Run
from ..runs.job_folder import ContinuationRequest, handed_over, take_back_handover
from ..runs.pipeline_directory import unfinished_before
from ..runs.run_config import RunConfig
from . import own_output, user_hook
from .attempt_monitor import CLEAR_SETTLE_S, Watch
from .attempt_records import AttemptRecords
from .failure_attribution import NodeEnd, judge, times
from .next_life import NextLife
from .node_heartbeats import NodeHeartbeats, report_file
from .owned_record import OwnedRecord
from .placement import Placement
from .rank_processes import Ranks, listen
from .rank_spawner import ForkServer
from .restart_policy import Action, Decision, decide, may_start
from .room_wait import when_there_is_room
from .run_folder import RunFolder
from .stop_notices import Clock, Notice, Signals, understand

SETTLE_S = 10.0
"""How long the other ranks, and the followers' reports, may take once something has failed."""
RESTART_NEEDS_S = 60.0
STAGE_WAIT_S = 30.0
LAST_WORD_S = 120.0
"""How long the run's final state may take to be written, where the disk does not take it; the ranks have ended by then."""
_BY_HAND = "fvlaunch resume goes on; `continue_by: resubmit` in the cluster file does it by itself"


class Superseded(Exception):
    """A later submission or attempt owns the run now: end without writing anything."""


class IsOver(Superseded):
    """The run has ended already, and the scheduler starts its job once more (Slurm 24.11 does after a preemption)."""

    def __init__(self, state: str) -> None:
        super().__init__(f"the run is {state}")
        self.state = state


class Head:
    def __init__(self, run: Run, config: RunConfig, placement: Placement, signals: Signals) -> None:
        self.run, self.config, self.placement, self.signals = run, config, placement, signals
        self.limits = config.cluster.limits
        self.server = ForkServer()
        self.clock = Clock(placement, self.limits.notice_lead_s)
        self._secrets = secret_values.values(config.cluster.secrets)
        self.generation = 0
        self.records = AttemptRecords(run, placement, self._secrets)
        self._folder = RunFolder(run.path)
        self.notice: Notice | None = None
        self._record = OwnedRecord(run)
        self.word: tuple[ContinuationRequest, Sequence[str]] = (ContinuationRequest.NOTHING, ())
        """Left for the batch script: what it has to do, and the nodes to stay away from."""
        self._next_poll = self._next_beat = 0.0

    def main(self) -> int:
        """Attempt after attempt; the exit code of this task: 0 only when the run is finished."""
        try:
            decision = when_there_is_room(self._claim, self.run, "the run", self.limits.phase_s, self._interruption)
            while True:
                decision = decision or self._before_attempt() or self._one_attempt()
                if decision.action is Action.END:
                    decision = self._end(decision)
                    self._notify(decision.state, decision.reason)
                    return 0 if decision.state == "finished" else 1
                self._notify("", "")
                if decision.action is Action.REQUEUE:
                    return self._requeue(decision)
                decision = None
        except Superseded as reason:
            own_output.say(f"{reason}; nothing is left to do here")
            return 0 if isinstance(reason, IsOver) and reason.state == "finished" else 1

    def _claim(self) -> None:
        """Own the run, or find that somebody else does. A job whose id nobody could record (sbatch's reply was lost) records it."""
        with self.run.locked():
            record = self.run.record()
            if record.token != self.placement.token:
                raise Superseded("another submission owns this run")
            if record.state in FINAL_STATES:
                raise IsOver(record.state)
            folder = self.run.job / self.placement.token
            follows = record.job_id is None or (record.job_id != self.placement.job_id and handed_over(folder, record.job_id))
            if not follows and record.job_id != self.placement.job_id:
                raise Superseded(f"job {record.job_id} owns this run")
            if follows:
                job_ids = tuple(dict.fromkeys([*record.job_ids, self.placement.job_id]))
                self.run.write_record(replace(record, job_id=self.placement.job_id, job_ids=job_ids, state="submitted"))
            take_back_handover(folder, self.placement.job_id)
            self.generation = record.generation
        self._record.keep()
        self.records.load()
        for attempt in self.records.attempts():  # the notice's lead follows from what saves of this run took, in any life of it
            if attempt.save_s is not None:
                self.clock.saved(attempt.save_s)

    def _before_attempt(self) -> Decision | None:
        intent = self._intent()
        if intent.want != "run":
            state = "stopped" if intent.want == "stop" else "cancelled"
            return Decision(Action.END, state, f"fvlaunch {intent.want}, before an attempt started")
        if not self.records.last and (why := self._too_early()):
            return Decision(Action.END, "failed", why)
        return may_start(self.records.attempts(), self.limits, self.generation)

    def _too_early(self) -> str | None:
        """Why a pipeline's stage must not start. What another node has just written may take a while to be seen here."""
        until = time.monotonic() + (0 if self.placement.scheduler.runs_here else STAGE_WAIT_S)
        while (why := unfinished_before(self.run)) and time.monotonic() < until and not self.signals.pending:
            time.sleep(0.5)
        return why

    def _intent(self) -> Intent:
        """Return what the person wants of this generation; an intent for an earlier one has been dealt with."""
        intent = self.run.intent()
        return intent if intent.generation >= self.generation else Intent("run", self.generation)

    def _one_attempt(self) -> Decision:
        before = self.records.last
        for log in self.run.rank_log(before, 0).parent.glob("*.log") if before and self._secrets else ():
            secret_values.mask(log, self._secrets)  # its agent may have been killed before it could
        self.notice = None
        bind, address = self.placement.listen_address()
        store = listen(bind)
        world = self.config.world(self.placement.node, address, store.getsockname()[1], self.placement.gpus)
        begin = partial(self.records.begin, self.config, self.generation, world)
        if decision := when_there_is_room(begin, self.run, f"attempt {before + 1}", self.limits.phase_s, self._interruption):
            store.close()
            return decision
        self.peers = NodeHeartbeats(self.run, self.placement.hosts, self.limits)
        ranks = Ranks(self.run, self.attempt, self.generation, world, store, self.server)
        watch = Watch(self.run, self.placement.host, ranks, self.limits, SETTLE_S, self._secrets)
        self._watch = watch
        end = watch.until_over(self._tick)
        return self._judge([end, *self._reports(end)])

    @property
    def attempt(self) -> int:
        return self.records.number

    def _interruption(self, why: str) -> Decision | None:
        """Return what is to be done instead of waiting for room any longer; None: go on waiting."""
        if orphaned := self._orphaned():
            raise Superseded(orphaned)
        with suppress(FvlaunchError):
            if self.run.record().token != self.placement.token:
                raise Superseded("another submission owns this run now")
        if self.generation:
            self._beat(phase="waiting", waits_for=why)
        want = self._intent().want
        if want != "run":
            return Decision(Action.END, "stopped" if want == "stop" else "cancelled", f"fvlaunch {want}, before an attempt started")
        if signums := self.signals.take():
            self.notice = understand(signums, self.placement, self._intent(), self.clock, self.limits.grace_s)
        elif self.clock.due():
            self.notice = Notice(Cause.TIME_LIMIT, time.monotonic(), "the allocation ended while it waited")
        if self.notice is None:
            return None
        ends = {Cause.STOPPED: "stopped", Cause.CANCELLED: "cancelled"}.get(self.notice.cause)
        words = f"{self.notice.words}; an attempt could not begin: {why}"
        return Decision(Action.END, ends, words) if ends else Decision(Action.REQUEUE, reason=words)

    # While the ranks run

    def _tick(self, messages: list[dict[str, Any]]) -> None:
        for message in messages:
            self._record_message(message)
        signums = self.signals.take()
        if signums and self.notice is None:
            self._on_signals(signums)
        now = time.monotonic()
        if now >= self._next_poll:
            self._next_poll = now + self.limits.poll_s
            self._poll()
        if now >= self._next_beat:
            self._next_beat = now + (1.0 if self.placement.scheduler.runs_here else min(10.0, self.limits.head_silence_s / 4))
            self._beat(**self._watch.pulse.summary(now))

    def _on_signals(self, signums: list[int]) -> None:
        if signal.SIGTERM in signums:  # to save is right whatever it means, and the scheduler may answer late
            self._watch.stop(time.monotonic() + self.limits.grace_s)
        notice = understand(signums, self.placement, self._intent(), self.clock, self.limits.grace_s)
        if notice is not None:
            self._take_notice(notice)

    def _record_message(self, message: dict[str, Any]) -> None:
        kind = message.get("kind")
        if kind == "checkpoint" and message["rank"] == 0:
            self.clock.saved(float(message.get("save_s", 0)))
        if kind == "failure" or (kind in ("checkpoint", "resumed", "begun", "warning") and message["rank"] == 0):
            self.records.log(kind, **{k: v for k, v in message.items() if k not in ("kind", "time")})

    def _take_notice(self, notice: Notice) -> None:
        self.notice = notice
        self.records.log("notice", cause=str(notice.cause), words=notice.words)
        if notice.cause is Cause.CANCELLED:
            self._watch.ranks.kill()
        else:
            self._watch.stop(notice.deadline)

    def _poll(self) -> None:
        self._still_current()
        self._record.keep()
        intent = self._intent()
        if intent.want == "cancel" or (intent.want == "stop" and self.notice is None):
            cancelled = intent.want == "cancel"
            if self.notice is None or self.notice.cause is not Cause.CANCELLED:
                wait = 0.0 if cancelled else max(self.clock.lead_s(), self.limits.grace_s)
                cause = Cause.CANCELLED if cancelled else Cause.STOPPED
                self._take_notice(Notice(cause, time.monotonic() + wait, f"fvlaunch {intent.want}"))
        if self.notice is None and self.clock.due():
            left = self.clock.left_s() or 0.0
            self._take_notice(Notice(Cause.TIME_LIMIT, time.monotonic() + max(left - 5, 5), f"{left:.0f} s are left of the allocation"))
        failed = [r for r in self._reports(None) if any(e.failed for e in r.ends)] if self.notice is None else []
        if failed:
            self._watch.kill_soon(clear=any(r.explains for r in failed))
        if self.notice is None and self._lost_node() is not None:
            self._watch.ranks.kill()

    def _still_current(self) -> None:
        """A process that was frozen for long may wake up to a run that has gone on without it."""
        current = self.run.current_attempt()
        if current and (current.get("generation"), current.get("attempt")) != (self.generation, self.attempt):
            self._watch.ranks.kill()
            raise Superseded(f"attempt {current.get('attempt')} is the current one")
        if why := self._orphaned():
            self._watch.ranks.kill()
            raise Superseded(why)

    def _orphaned(self) -> str:
        """Return why nobody waits for this run any more; empty where that is not so."""
        if not self.placement.is_held():  # killed; for everybody else the job is gone, and another may be started
            return "the process that holds this job is gone"
        return f"the run's folder was removed: {self.run.path}" if self._folder.is_removed() else ""

    def _beat(self, **pulse: Any) -> None:
        """Show that this agent is there, and what of its records could not be written."""
        who = {"attempt": self.records.number or self.records.last, "job_id": self.placement.job_id}
        trouble = {"unwritten": self.records.writer.trouble} if self.records.writer.trouble else {}
        value = {"time": time.time(), **who, "allocation_left_s": self.clock.left_s(), **pulse, **trouble}
        self.records.writer.put(self.run.heartbeat_file, value)

    def _reports(self, own: NodeEnd | None) -> list[NodeEnd]:
        """Return the followers' ends of this attempt; given a moment to arrive, if `own` is the end here: a short one if any tells why."""
        began = time.monotonic()
        while True:
            found = [read_json(report_file(self.run, self.attempt, n)) for n in range(1, len(self.placement.hosts))]
            reports = [end for value in found if value and (end := NodeEnd.parse(value)) is not None]
            clear = own is not None and any(end.explains for end in (own, *reports))
            wait_s = 0.0 if own is None else CLEAR_SETTLE_S if clear else SETTLE_S
            if len(reports) == len(found) or time.monotonic() >= began + wait_s:
                return reports
            time.sleep(0.1)

    # When they have ended

    def _judge(self, ends: Sequence[NodeEnd]) -> Decision:
        self._still_current()
        cause, failure = judge(ends, self.notice.cause if self.notice else None, self._silent(ends), self._lost())
        steps = [e.step for node in ends for e in node.ends if e.step is not None]
        told = {**({"step": max(steps)} if steps else {}), **times(ends)}
        self.records.log("ended", cause=str(cause), failure=failure.__dict__ if failure else None, **told)
        attempts = self.records.attempts()
        decision = decide(attempts, self.limits, in_place=self._in_place(attempts[-1]), can_requeue=self.placement.scheduler.can_requeue)
        if self.notice and cause is self.notice.cause and (cause is Cause.STOPPED or not decision.reason):
            decision = replace(decision, reason="; ".join(filter(None, (self.notice.words, decision.reason))))
        intent = self._intent()
        if decision.action is not Action.END and intent.want != "run":  # asked while it was ending
            decision = Decision(Action.END, "stopped" if intent.want == "stop" else "cancelled", f"fvlaunch {intent.want}")
        self.records.log("decided", next=decision.action.value, state=decision.state, reason=decision.reason, exclude=decision.exclude)
        self._say(cause, failure, decision)
        return decision

    def _lost_node(self) -> int | None:
        """Return a node that has fallen silent. None is judged while this one cannot write either: the others' signs of life lie there."""
        return self.peers.lost(self.attempt, blind=self.records.writer.fails(self.run.heartbeat_file))

    def _lost(self) -> Failure | None:
        node = self._lost_node()
        if node is None:
            return None
        rank = node * self.config.world(0, "", 0).per_node
        return Failure(rank, self.placement.hosts[node], None, "nothing was heard of this node's agent for too long")

    def _silent(self, ends: Sequence[NodeEnd]) -> list[tuple[str, int]]:
        """Nodes that sent no report, with their first rank."""
        heard, per_node = {end.node for end in ends}, self.config.world(0, "", 0).per_node
        return [(host, n * per_node) for n, host in enumerate(self.placement.hosts) if host not in heard]

    def _in_place(self, last: Attempt) -> bool:
        left = self.clock.left_s()
        time_left = left is None or left > self.clock.lead_s() + RESTART_NEEDS_S
        return self.notice is None and len(self.placement.hosts) == 1 and time_left

    def _say(self, cause: Cause, failure: Failure | None, decision: Decision) -> None:
        why = f"\n{failure.explain()}" if failure else ""
        own_output.say(f"attempt {self.attempt} ended: {cause}; next: {decision.action.value} {decision.state}{why}")

    def _end(self, decision: Decision) -> Decision:
        """Write the run's final state, and return it as it was written. Where that cannot be done it is tried for a while."""
        until, told = time.monotonic() + min(LAST_WORD_S, self.limits.phase_s), False
        while True:
            if decision.state == "stopped" and self._intent().want == "cancel":  # asked while it saved
                decision = replace(decision, state="cancelled", reason="fvlaunch cancel")
            try:
                self._write_end(decision)
                break
            except (OSError, FvlaunchError) as error:
                if not told:
                    own_output.say(f"the run is {decision.state} ({decision.reason}), which cannot be written down: {error}")
                told = True
            if time.monotonic() >= until or self.signals.pending:
                break
            time.sleep(0.5)
        self.records.tell_followers("end")
        self.records.writer.catch_up(now=True)
        return decision

    def _write_end(self, decision: Decision) -> None:
        self._record.keep()
        with self.run.locked():
            record = self.run.record()
            if record.token != self.placement.token:
                raise Superseded("another submission owns this run now")
            self.run.write_record(replace(record, state=decision.state, reason=decision.reason))

    def _notify(self, state: str, reason: str) -> None:
        attempts = [a for a in self.records.attempts() if a.generation == self.generation]
        why = reason or (attempts[-1].failure.explain() if attempts and attempts[-1].failure else "")
        user_hook.tell(self.config.cluster.notify, self.run, user_hook.event_of(state, attempts), why)

    def _requeue(self, decision: Decision) -> int:
        """Have the job run again, or leave the batch script a word; the exit code of this task."""
        life = NextLife(self.placement, self.config.cluster, self.records)
        outside = life.left_to_batch_script(self.notice)
        try:
            if outside is ContinuationRequest.NOTHING:
                life.requeue(self.notice, decision.exclude)
            else:
                self.word = (outside, life.excluded(decision.exclude))
        except FvlaunchError as error:
            self.records.log("requeue_failed", text=str(error))
            self._end(Decision(Action.END, "stopped", f"the job could not be requeued: {error.message}; {_BY_HAND}"))
            return 1
        self.records.tell_followers("requeue")
        self.records.writer.catch_up(now=True)
        return 1  # its fate is decided: to wait for the end would only delay the next life
