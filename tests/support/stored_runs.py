"""Owns unpacking the runs that an earlier version of this code recorded, and what their undisturbed twins computed.

Must not start a run or know how today's code stores one: whatever it changes in a stored file is a path.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.launcher import metrics
from tests.support.paths import ROOT

ARCHIVE = ROOT / "tests/fixtures/stored_runs/ff5050c.tar.xz"
RECORDED_AT = b"/tmp/stored-runs"
"""The folder that the runs were recorded in: absolute in their files."""
BINARY = (".distcp", ".metadata", ".parquet", ".safetensors", ".mp4", ".pkl")
STAGES = ("finetune", "dmd2", "chain/first", "chain/second", "prepared")
"""The stored run directories; `chain` is a pipeline of two."""
CLOCKS = ("step_s", "attempt")
"""What a line of metrics.jsonl holds beside numbers that training computed."""


def unpack(folder: Path) -> None:
    """Put the recorded workspace into `folder` as if it had been recorded there, each run with its own copy of the old code."""
    with tarfile.open(ARCHIVE) as archive:
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(folder / "unpacked", **safe)  # type: ignore[arg-type]
    shutil.copytree(folder / "unpacked" / "stored-runs", folder, dirs_exist_ok=True)
    shutil.rmtree(folder / "unpacked")
    for path in folder.rglob("*"):
        if path.is_file() and folder / "code" not in path.parents:
            _relocate(path, folder)
    for stage in STAGES:
        shutil.copytree(folder / "code", folder / "runs" / stage / "code")


def old_code(folder: Path) -> Path:
    """The packages as they were when the runs were recorded."""
    return folder / "code"


def without_code_copy(run: Path) -> None:
    """Make a run one that was submitted with --no-snapshot: its jobs run whatever code is installed."""
    shutil.rmtree(run / "code")


def assert_same_numbers(folder: Path, run: Path, whole: str) -> None:
    """Compare a finished run with its undisturbed twin that the old code computed: every metric of every step, and every shard.

    Bitwise, which holds only where the recording machine and this one agree in what a checkpoint's manifest calls `facts` (CPU
    capability, threads, versions of torch and diffusers); elsewhere every loss to a relative 1e-5.
    """
    twin = folder / "whole" / whole
    there, here = json.loads((twin / "MANIFEST.json").read_text()), _last_manifest(run)
    computed, recorded = _numbers(run), _numbers(twin)
    assert [line["step"] for line in computed] == [line["step"] for line in recorded]
    if here["facts"] == there["facts"]:
        assert computed == recorded
        assert _shards(here) == _shards(there)
    else:
        assert [line["loss"] for line in computed] == pytest.approx([line["loss"] for line in recorded], rel=1e-5)


def _numbers(run: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in metrics(run)]


def _last_manifest(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(max((run / "checkpoints").glob("step-*/MANIFEST.json")).read_text())
    return found


def _shards(manifest: dict[str, Any]) -> dict[str, str]:
    """Digests of weights, EMA, optimizer and schedule, by file. `.metadata` names random uuids, so it is left out."""
    return {name: entry["digest"] for name, entry in manifest["files"].items() if name.endswith(".distcp")}


def _relocate(path: Path, folder: Path) -> None:
    raw = path.read_bytes()
    if path.suffix == ".pkl":
        moved = _relocated_pickle(raw, folder)
    elif path.name.endswith(BINARY):
        return
    else:
        python = sys.executable.encode()
        moved = raw.replace(RECORDED_AT + b"/python", python).replace(RECORDED_AT, bytes(folder))
    if moved != raw:
        path.write_bytes(moved)


def _relocated_pickle(raw: bytes, folder: Path) -> bytes:
    """Rewrite the one path in a job's pickle, and the two lengths that count its bytes; every name in it stays as it was written."""
    begin = raw.index(RECORDED_AT)
    length = raw[begin - 1]
    path = raw[begin : begin + length].replace(RECORDED_AT, bytes(folder))
    assert raw[begin - 2 : begin - 1] == b"\x8c" and len(path) < 256, "a SHORT_BINUNICODE: one byte tells its length"
    assert raw[2:3] == b"\x95", "a FRAME: eight bytes tell its length"
    [frame] = struct.unpack("<Q", raw[3:11])
    body = raw[11 : begin - 1] + bytes([len(path)]) + path + raw[begin + length :]
    return raw[:3] + struct.pack("<Q", frame + len(path) - length) + body
