"""Owns the rest of CUDA for the simulated device: functions that do nothing and return 0 (success), for all that torch and Triton may call
and device.cpp does not define. Must not know what the functions mean."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

_CALLERS = ("libc10_cuda.so", "libtorch_cuda.so", "libtorch_python.so", "libtorch_cuda_linalg.so")
_CUDA = re.compile(r"(cublas|cuda[A-Z]|nccl|cusparse|cusolver|cufft|curand)")


def source(packages: Path, driver_header: Path, device: Path) -> str:
    """Return C++ with a stub for each function that the torch in `packages` imports and each of the driver's header, but for those of
    `device`."""
    own, header = device.read_text(), driver_header.read_text()
    names = {name for library in _CALLERS for name in _imported(packages / "torch/lib" / library) if _CUDA.match(name)}
    names |= _of_driver(header)
    missing = sorted(name for name in names if not re.search(rf"^API [\w* ]+[ *]{name}\(", own, re.MULTILINE))
    lines = [f"int {name}() {{ return 0; }}" for name in missing]
    return "\n".join(['extern "C" {', *lines, "}", ""])


def _imported(library: Path) -> set[str]:
    """Return the symbols that a shared library leaves to others, without their versions."""
    listed = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1].split("@")[0] for line in listed.splitlines() if line.split()}


def _of_driver(header: str) -> set[str]:
    """Return the driver's functions, with the names that its macros give to some of them (cuMemFree -> cuMemFree_v2)."""
    names = set(re.findall(r"CUresult\s+CUDAAPI\s+(cu\w+)\s*\(", header))
    for pair in re.findall(r"#define\s+(cu[A-Z]\w+)\s+(?:__CUDA_API_P\w+\()?(cu[A-Z]\w+)", header):
        names |= set(pair)
    return names | set(re.findall(r"__CUDA_API_PT[DS][SZ]\((\w+)\)", header))
