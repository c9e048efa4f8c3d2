"""Owns the check that a causal model's attention window, sinks and blocks fit the clip. Must not import torch."""

from __future__ import annotations


def blocks_fit(local_attn_size: int | None, sink_frames: int, per_block: int) -> tuple[str, str] | None:
    """Return (what is wrong with a window, a hint); None where it holds its sink frames and a block."""
    least = sink_frames + per_block
    if local_attn_size is None or local_attn_size >= least:
        return None
    message = f"local_attn_size {local_attn_size} does not hold sink_frames {sink_frames} and a block of num_frames_per_block {per_block}"
    return message, f"at least {least}"
