"""Owns how figures are shown: one simulation in full, and a line each of many. Must not measure or judge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tests.gpu.figures import Figures, Kept, Phase

_OPERATORS_SHOWN = 8


def in_full(figures: Figures) -> str:
    """Return all of one simulation as text."""
    lines = [f"## {figures.preset}: one of {figures.ranks} ranks, {_versions(figures.versions)}", ""]
    lines += [f"kept between steps: {_gb(figures.kept)} (most while it was built: {_gb(figures.building)})"]
    lines += [f"  {role}: {_kept(kept)}" for role, kept in figures.roles.items()]
    for name, phase in figures.phases.items():
        lines += ["", *_phase(name, phase)]
    return "\n".join(lines)


def of_many(all_figures: Iterable[Figures]) -> str:
    """Return a markdown table with a line for each preset."""
    rows = [_row(figures) for figures in all_figures]
    head = "| preset, ranks | kept | critic's iteration, or the step: peak / reserved, PFLOP, launches | student's iteration | waits |"
    return "\n".join([head, "|---|---:|---|---|---|", *rows])


def _row(figures: Figures) -> str:
    phases = figures.phases
    first = phases.get("critic") or phases.get("step")
    cells = ["" if phase is None else _cell(phase) for phase in (first, phases.get("student"))]
    undeclared = sum(wait.times for wait in figures.undeclared)
    waits = "none undeclared" if not undeclared else f"**{undeclared} undeclared**"
    return f"| {figures.preset}, {figures.ranks} | {_number(figures.kept)} | {cells[0]} | {cells[1]} | {waits} |"


def _cell(phase: Phase) -> str:
    launches = "" if phase.launches is None else f", {phase.launches / 1e3:.1f}k"
    return f"{_number(phase.peak)} / {_number(phase.reserved)}, {phase.flops / 1e15:.2f}{launches}"


def _phase(name: str, phase: Phase) -> list[str]:
    lines = [f"{name}, step {phase.step}: peak {_gb(phase.peak)}, reserved {_gb(phase.reserved)}, {phase.flops / 1e15:.3f} PFLOP"]
    lines += [f"  peak by stage: {_listed(phase.peaks, 1e9, ' GB')}"]
    lines += [f"  forward passes: {', '.join(f'{part} {times}' for part, times in phase.passes.items())}"]
    lines += [f"  PFLOP by operator: {_listed(phase.flops_by, 1e15, '')}"]
    if phase.launches is not None and phase.copied is not None:
        lines += [f"  kernels launched: {phase.launches:,}; copied by calls: {_gb(phase.copied)}; the host took {phase.host_s} s"]
    for wait in phase.waits:
        lines += [f"  waits for the device: {wait.times} x {wait.place} ({wait.what}): {wait.reason or 'NOT DECLARED'}"]
    return lines


def _kept(kept: Kept) -> str:
    parts = {"weights": kept.weights, "optimizer": kept.optimizer, "average": kept.average}
    return f"{_gb(kept.total)}: " + ", ".join(f"{name} {_gb(size)}" for name, size in parts.items() if size)


def _listed(values: Mapping[str, int], unit: float, suffix: str) -> str:
    largest = sorted(values.items(), key=lambda item: -item[1])[:_OPERATORS_SHOWN]
    return ", ".join(f"{name} {value / unit:.3g}{suffix}" for name, value in largest)


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _gb(size: int | None) -> str:
    return "not known" if size is None else f"{_number(size)} GB"


def _number(size: int | None) -> str:
    return "" if size is None else f"{size / 1e9:.1f}"
