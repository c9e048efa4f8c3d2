"""Owns folders full of modules whose names Python, this project and its dependencies use: what a process of ours must never execute."""

from __future__ import annotations

import sys
from pathlib import Path

PACKAGES = ("av", "diffusers", "fvlaunch", "numpy", "pydantic", "rich", "submitit", "torch", "trainers", "typer", "yaml")
BY_ITSELF = ("sitecustomize", "usercustomize", "conftest", "__main__")
"""What Python or a tool imports without being told to."""


class ForeignModules:
    """A working directory with a module of each such name; each writes its own name down when it is executed, and ends the process well,
    so that only the exit code of what was started looks sound."""

    def __init__(self, folder: Path, traces: Path) -> None:
        self.folder, self._traces = folder, traces
        program = f"open({str(traces)!r}, 'a').write(__file__ + chr(10))\nraise SystemExit(0)\n"
        for name in {*sys.stdlib_module_names, *BY_ITSELF}:
            (folder / f"{name}.py").write_text(program)
        for name in (*PACKAGES, "encodings"):
            (folder / name).mkdir(exist_ok=True)
            (folder / name / "__init__.py").write_text(program)
        (folder / "pyvenv.cfg").write_text("home = /nowhere\n")

    @property
    def executed(self) -> list[str]:
        return self._traces.read_text().splitlines() if self._traces.exists() else []
