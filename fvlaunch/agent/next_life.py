"""Owns how a job that shall go on comes to run again: it is requeued here, or the batch script is left a word of what it has to do.

Must not decide whether the run goes on (restart_policy.py does), nor write the run's own record.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..config.schema import Cluster
from ..errors import FvlaunchError
from ..runs.attempts import Cause
from ..runs.job_folder import ContinuationRequest
from .attempt_records import AttemptRecords
from .placement import Placement
from .stop_notices import Notice

REQUEUE_WAIT_S = 300.0
"""After a requeue the scheduler ends this job; an agent that outlives that by so long ends by itself."""


class NextLife:
    """The next life of one job, after the attempt that `records` has just ended."""

    def __init__(self, placement: Placement, cluster: Cluster, records: AttemptRecords) -> None:
        self._placement, self._cluster, self._records = placement, cluster, records

    def left_to_batch_script(self, notice: Notice | None) -> ContinuationRequest:
        """Return what the batch script has to do because the agent cannot: submit a new job, or ask and requeue where scontrol is missing
        here."""
        can_ask = self._placement.scheduler.can_ask()
        if notice is not None and notice.requeued:
            done_already = notice.cause is Cause.REQUEUED
            return ContinuationRequest.NOTHING if done_already or can_ask else ContinuationRequest.ASK
        if self._cluster.continue_by == "resubmit":
            return ContinuationRequest.RESUBMIT
        return ContinuationRequest.NOTHING if can_ask else ContinuationRequest.REQUEUE

    def excluded(self, nodes: Sequence[str]) -> list[str]:
        """Return the nodes that a new job stays away from: those of the profile too, as the option replaces them."""
        before = str(self._cluster.slurm.get("exclude") or "").split(",")
        return [node for node in dict.fromkeys([*before, *nodes]) if node] if nodes else []

    def requeue(self, notice: Notice | None, exclude: Sequence[str]) -> None:
        """Have the scheduler start the job again, without the nodes in `exclude`. FvlaunchError where it refuses.

        A preempted job whose task ended by itself would be COMPLETED and never come back: there this waits until the scheduler, which
        knows whether the job comes back, ends the task.
        """
        if notice is not None and notice.requeued:
            if notice.cause is not Cause.REQUEUED:
                time.sleep(REQUEUE_WAIT_S)
            return
        self._placement.scheduler.requeue(self._placement.job_id)
        for node in exclude:
            self._exclude(node)

    def _exclude(self, node: str) -> None:
        """Keep the next life off a node, which is allowed once the job waits again. Not where too few are left: it would wait for ever."""
        for _ in range(5):
            try:
                if not self._placement.scheduler.exclude_node(self._placement.job_id, node, len(self._placement.hosts)):
                    self._records.log("exclude_skipped", node=node, text="without it too few nodes are left")
                return
            except FvlaunchError as error:
                self._records.log("exclude_failed", node=node, text=str(error))
                time.sleep(0.3)
