"""Owns what cuda.py finds, as rows: checks and figures, their table and their JSON. Must not import torch."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MATRIX_PRODUCT = "a large matrix product, bf16"
"""The figure that the others are compared with."""


@dataclass(frozen=True)
class Check:
    """Something that is right or not."""

    name: str
    found: str
    limit: str
    kept: bool


@dataclass(frozen=True)
class Figure:
    """Something that was timed; None where it does not apply, or where it could not be had: then `note` says why."""

    name: str
    step_s: float | None = None
    tokens: int | None = None
    """Of a step, after patching."""
    flops: float | None = None
    """Of a step, see cuda_flops.py."""
    peak_gb: float | None = None
    """The most that was allocated at once."""
    reserved_gb: float | None = None
    """The most that the allocator had taken from the device."""
    estimated_gb: float | None = None
    """What `--dry-run` tells, to be compared with what was reserved."""
    note: str = ""

    @property
    def tflops(self) -> float | None:
        return self.flops / self.step_s / 1e12 if self.flops and self.step_s else None


def checked(name: str, limit: str, make: Callable[[], tuple[str, bool]]) -> Check:
    """The check that `make` -> (what was found, whether that will do) is; whatever it raises is a failed one."""
    tell(name)
    try:
        found, kept = make()
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        found, kept = one_line(error), False
    return Check(name, found, limit, kept)


def one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160] if lines else ''}"


def tell(text: str) -> None:
    """Progress."""
    print(f"... {text}", file=sys.stderr, flush=True)


@dataclass
class Report:
    machine: str
    checks: list[Check] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    seconds: float = 0.0
    left: list[str] = field(default_factory=list)
    """Rows that were not measured."""
    earlier: list[str] = field(default_factory=list)
    """Rows that were measured with other code, or on another machine."""

    @property
    def matmul_tflops(self) -> float | None:
        """What figures are compared with."""
        return next((figure.tflops for figure in self.figures if figure.name == MATRIX_PRODUCT), None)

    @property
    def kept(self) -> bool:
        return all(check.kept for check in self.checks)

    def markdown(self) -> str:
        checks = [[c.name, c.found, c.limit, "ok" if c.kept else "FAIL"] for c in self.checks]
        parts = [f"{self.machine}", _table(["check", "found", "limit", ""], checks)]
        if self.figures:
            heads = ["what", "s/step", "tokens/s", "TFLOP/s", "of the matrix product", "peak GB", "reserved GB", "estimated GB", ""]
            parts.append(_table(heads, [self._cells(figure) for figure in self.figures], numbers=range(1, 8)))
        failed = sum(not check.kept for check in self.checks)
        parts.append(f"{len(self.checks)} checks, {failed} failed; {self.seconds:.0f} s in all")
        if self.left:
            parts.append(f"Not measured, for want of time ({len(self.left)}): {'; '.join(self.left)}. The same command goes on with them.")
        if self.earlier:
            parts.append(f"Of other code, or another machine: {'; '.join(self.earlier)}.")
        return "\n\n".join(parts)

    def short(self) -> list[str]:
        """Return a line for each check and figure."""
        checks = [f"{'ok  ' if check.kept else 'FAIL'} {check.name}: {check.found} (limit {check.limit})" for check in self.checks]
        heads = ("", " s", " tokens/s", " TFLOP/s", " of the matrix product", " GB peak", " GB reserved", " GB estimated", "")
        cells = [[f"{cell}{unit}" for cell, unit in zip(self._cells(one), heads, strict=True) if cell] for one in self.figures]
        return [*checks, *(", ".join(row) for row in cells)]

    def _cells(self, figure: Figure) -> list[str]:
        rate = figure.tokens / figure.step_s if figure.tokens and figure.step_s else None
        share = figure.tflops / self.matmul_tflops if figure.tflops and self.matmul_tflops else None
        numbers = (_cell(figure.step_s, ".4g"), _cell(rate, ",.0f"), _cell(figure.tflops, ".3g"), _cell(share, ".0%"))
        memory = (_cell(size, ".1f") for size in (figure.peak_gb, figure.reserved_gb, figure.estimated_gb))
        return [figure.name, *numbers, *memory, figure.note]

    def write(self, path: Path) -> None:
        found: dict[str, Any] = {**asdict(self), "kept": self.kept, "matmul_tflops": self.matmul_tflops}
        for row, figure in zip(found["figures"], self.figures, strict=True):
            row["tflops"] = figure.tflops
        path.write_text(json.dumps(found, indent=1) + "\n")


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    rule = ["---:" if column in numbers else "---" for column in range(len(heads))]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in (heads, rule, *rows))
