"""Owns the environment in which a GPU is simulated: an interpreter with a CUDA build of torch, and beside it a libcuda that is not one.

`make` downloads and builds it; `of` finds it. Must not import torch or run a simulation.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.gpu import stubs
from tests.support.paths import ROOT
from tests.versions.environments import NotDownloaded, install, uv
from trainers import allocator

VARIABLE = "FVLAUNCH_GPU_SIM"
"""The environment variable that names the folder of an environment."""
DEFAULT = ROOT / ".venv-tests-gpu"
TORCH = "2.13.0"
_HEADERS = "nvidia-cuda-crt==13.0.88"
"""What the CUDA runtime's headers include and torch does not depend on; of the CUDA that this torch is built for."""
_TOOLS = ("pytest", "pytest-timeout")
_SOURCE = Path(__file__).with_name("device.cpp")
_LIBRARY = "libcuda.so.1"

__all__ = ["DEFAULT", "TORCH", "VARIABLE", "Environment", "NotBuilt", "NotDownloaded", "make", "of"]


class NotBuilt(Exception):
    """The simulated device cannot be built here; the argument says why."""


@dataclass(frozen=True)
class Environment:
    """The folder of an environment that `make` has made."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    @property
    def library(self) -> Path:
        """The simulated device, which is loaded before the CUDA libraries."""
        return self.folder / "simulated" / _LIBRARY

    @property
    def command(self) -> Path:
        """The program that simulates recipes with the checkout that made the environment."""
        return self.folder / "simulate"

    @property
    def is_made(self) -> bool:
        return self.library.is_file()

    def variables(self) -> dict[str, str]:
        """Return the environment variables under which a process of `python` believes in a GPU."""
        kept = {name: value for name, value in os.environ.items() if name not in ("CUDA_VISIBLE_DEVICES", "TRAINER_GPUS")}
        folder = str(self.library.parent)
        shown = {"LD_PRELOAD": str(self.library), "LD_LIBRARY_PATH": folder, "TRITON_LIBCUDA_PATH": folder}
        counted = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}  # as in a rank: counted by CUDA, devices are lost to forked processes
        variables = {**kept, **shown, **counted, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        allocator.prefer_expandable_segments(variables)
        return variables


def of(folder: Path | None = None) -> Environment | None:
    """Return the environment in `folder`, else in the one that FVLAUNCH_GPU_SIM names, else in the default one; None where none is made."""
    named = os.environ.get(VARIABLE)
    environment = Environment(folder or (Path(named) if named else DEFAULT))
    return environment if environment.is_made else None


def make(folder: Path) -> Environment:
    """Install what a simulation needs into `folder`, where it is not there yet, and build the device anew.

    NotDownloaded is raised where the network does not give a package, NotBuilt where there is no compiler or it fails.
    """
    if shutil.which("g++") is None:
        raise NotBuilt("there is no g++ here")
    environment = Environment(folder.absolute())
    if not environment.python.exists():
        uv("venv", "--quiet", "--seed", environment.folder)
    # === and not ==, which a build for the CPU (2.13.0+cpu) would satisfy, too
    install(environment.python, "--requirements", ROOT / "pyproject.toml", f"torch==={TORCH}", *_TOOLS)
    install(environment.python, "--no-deps", _HEADERS)
    _build(environment)
    return environment


def _build(environment: Environment) -> None:
    """Compile the device and its stubs into the environment, whole or not at all."""
    packages = next(environment.folder.glob("lib/python3.*/site-packages"))
    headers = next((path.parent for path in sorted(packages.glob("nvidia/*/include/cuda.h"))), None)
    if headers is None:
        raise NotBuilt(f"there are no CUDA headers in {packages}: is the torch in it a CUDA build?")
    environment.library.parent.mkdir(exist_ok=True)
    generated, made = environment.library.with_name("stubs.cpp"), environment.library.with_name("made")
    generated.write_text(stubs.source(packages, headers / "cuda.h", _SOURCE))
    flags = ["-O1", "-fPIC", "-shared", f"-Wl,-soname,{_LIBRARY}", f"-I{headers}"]
    done = subprocess.run(["g++", *flags, _SOURCE, generated, "-o", made, "-ldl"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotBuilt(f"g++ ended with {done.returncode}: {done.stderr[-2000:]}")
    _write_command(environment)
    management = environment.library.with_name("libnvidia-ml.so.1")
    management.unlink(missing_ok=True)
    management.symlink_to(_LIBRARY)  # it counts devices without CUDA
    made.replace(environment.library)


def _write_command(environment: Environment) -> None:
    """Write the program by which `fvlaunch submit --dry-run --traced`, which knows no tests, simulates with this checkout."""
    folder, root = shlex.quote(str(environment.folder)), shlex.quote(str(ROOT))
    made = environment.folder / "simulate.new"
    made.write_text(f'#!/bin/sh\ncd {root} || exit 3\nFVLAUNCH_GPU_SIM={folder} exec {folder}/bin/python -m tests.gpu "$@"\n')
    made.chmod(0o755)
    made.replace(environment.command)
