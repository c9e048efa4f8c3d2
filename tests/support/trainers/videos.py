"""Owns making videos by `python -m trainers.sample` in the test's own process, and comparing them."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from trainers import sample


def frames(path: Path) -> np.ndarray:
    """Return a video's frames [T, H, W, 3], of bytes."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def same_video(left: Path, right: Path) -> bool:
    """Return whether two videos are one; x264 now and then encodes the same pixels a little differently."""
    return bool(np.abs(frames(left).astype(int) - frames(right)).max() < 16)


def run_sample(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr."""
    code = sample.main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err
