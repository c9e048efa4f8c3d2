"""Owns telling where a learning rate jumps as a run goes on by another configuration. Pure: must not read files or print."""

from __future__ import annotations

import math
from typing import Any

from trainers.config import TrainConfig

_SAME = 1e-6
"""Rates that differ by less, relatively, are one rate."""


def jumps(before: TrainConfig, after: TrainConfig, step: int) -> list[str]:
    """Return a warning for each learning rate that goes on from `step` otherwise than `before` would have had it."""
    lines = []
    for role, optimizer in after.optimizers.items():
        former = before.optimizers.get(role)
        if former is None or former.kind != optimizer.kind:  # another optimizer: its state does not fit, which is refused later
            continue
        lines += _jumps_of(role, _rates(before, role, former), _rates(after, role, optimizer), step)
    return lines


def _jumps_of(role: str, former: _Rates, new: _Rates, step: int) -> list[str]:
    lines, done = [], step // former.interval
    for key, rate in new.full.items():
        last, planned, goes_on = former.of(key, done - 1), former.of(key, done), new.of(key, done)
        if rate and not math.isclose(planned, goes_on, rel_tol=_SAME, abs_tol=_SAME * rate):
            lines.append(
                f"warning: the learning rate of {role}{key} jumps: step {step} had {shown(last)}, step {step + 1} gets {shown(goes_on)} "
                f"({shown(planned)} by the schedule until now)\nhint: {_hint(role, former, new)}"
            )
    return lines


class _Rates:
    """The learning rates of a role by the number of its own steps."""

    def __init__(self, full: dict[str, float], schedule: Any, interval: int, max_steps: int) -> None:
        self.full, self.schedule, self.interval, self.last_step = full, schedule, interval, max(1, max_steps // interval)

    def of(self, key: str, done: int) -> float:
        """Return a rate after `done` steps."""
        return float(self.full[key] * self.schedule.factor(max(0, done), self.last_step))

    @property
    def end(self) -> int:
        return int(self.schedule.decay_steps or self.last_step)


def _rates(train: TrainConfig, role: str, optimizer: Any) -> _Rates:
    rest = getattr(optimizer, "rest", None)
    full = {"": optimizer.lr, **({" (rest)": rest.lr} if rest is not None else {})}
    return _Rates(full, optimizer.schedule, train.method.update_interval(role), train.max_steps)


def _hint(role: str, former: _Rates, new: _Rates) -> str:
    """Say what keeps the former rate: its length where only that has changed."""
    same = {"decay_steps": None}
    if former.full == new.full and former.schedule.model_copy(update=same) == new.schedule.model_copy(update=same):
        return f"--set train.optimizers.{role}.schedule.decay_steps={former.end} keeps the former schedule, which ends there"
    return f"train.optimizers.{role} as it was keeps the former rate"


def shown(rate: float) -> str:
    """Return a rate as people write it: 2.5e-4."""
    mantissa, _, exponent = f"{rate:.2e}".partition("e")
    return "0" if rate == 0 else f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
