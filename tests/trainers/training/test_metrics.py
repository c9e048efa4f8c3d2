"""Promises of what a run tells: every step once, in full, one step late."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.support.rows import fault
from trainers.training.metrics import DelayedMetrics, MetricsFile


def line(step: int, loss: float) -> str:
    return json.dumps({"step": step, "loss": loss}) + "\n"


@fault("23", "metrics.jsonl with a cut line, doubled and later steps")
def test_opening_drops_later_steps_a_cut_line_and_doubles(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1, 1.0) + line(2, 2.0) + line(3, 3.0) + line(2, 2.5) + "[]\n" + line(4, 4.0) + '{"step": 5, "lo')
    file = MetricsFile(path, last_step=3)
    file.write({"step": 4, "loss": 4.5})
    file.close()
    assert path.read_text() == line(1, 1.0) + line(2, 2.5) + line(3, 3.0) + line(4, 4.5)
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_cut_line_of_a_step_that_stays_is_dropped_too(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1, 1.0) + '{"step": 2, "loss": 2.')
    MetricsFile(path, last_step=2).close()
    assert path.read_text() == line(1, 1.0)


def test_an_old_writer_holds_a_dead_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    old = MetricsFile(path, last_step=0)
    old.write({"step": 1})
    new = MetricsFile(path, last_step=1)
    old.write({"step": 2})
    new.write({"step": 2, "loss": 0.5})
    old.close()
    new.close()
    assert [json.loads(text) for text in path.read_text().splitlines()] == [{"step": 1}, {"step": 2, "loss": 0.5}]


def test_numbers_survive_in_full_and_what_is_not_finite_is_null(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl", last_step=0)
    file.write({"step": 1, "loss": 0.1 + 0.2, "grad_norm": float("nan"), "other": float("inf")})
    file.close()
    (found,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert found == {"step": 1, "loss": 0.1 + 0.2, "grad_norm": None, "other": None}


def test_a_record_comes_one_step_late_in_the_order_written() -> None:
    delayed = DelayedMetrics()
    assert delayed.push(1, ["loss", "grad_norm"], torch.tensor([0.5, 2.0], dtype=torch.float64), {"lr": 0.1}) is None
    record = delayed.push(2, ["loss"], torch.tensor([0.25], dtype=torch.float64), {})
    assert record is not None
    assert list(record.values.items()) == [("step", 1), ("loss", 0.5), ("grad_norm", 2.0), ("lr", 0.1)]
    last = delayed.pop()
    assert last is not None
    assert last.step == 2
    assert delayed.pop() is None
