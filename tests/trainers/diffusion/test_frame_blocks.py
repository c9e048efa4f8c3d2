"""Promises of the blocks: the remainder goes last, and who looks at whom is as drawn here."""

from __future__ import annotations

import torch
from torch import Tensor

from trainers.diffusion.frame_blocks import block_of_frame, causal, lengths, teacher_forcing


def drawn(*rows: str) -> Tensor:
    return torch.tensor([[cell == "x" for cell in row.replace(" ", "")] for row in rows])


def test_the_remainder_is_a_smaller_last_block() -> None:
    assert lengths(20, 3) == [3, 3, 3, 3, 3, 3, 2]
    assert lengths(18, 3) == [3] * 6
    assert lengths(2, 3) == [2]
    assert lengths(4, 1) == [1] * 4
    assert block_of_frame(5, 2).tolist() == [0, 0, 1, 1, 2]


def test_boundaries_do_not_move_when_a_video_gets_longer() -> None:
    for per_block in (1, 2, 3, 7):
        for frames in range(1, 12):
            assert sum(lengths(frames, per_block)) == frames
            assert causal(frames, per_block).equal(causal(12, per_block)[:frames, :frames])


def test_a_frame_sees_its_own_block_and_earlier_ones() -> None:
    assert causal(5, 2).equal(drawn("xx...", "xx...", "xxxx.", "xxxx.", "xxxxx"))
    assert causal(3, 1).equal(drawn("x..", "xx.", "xxx"))
    assert causal(3, 3).all()


def test_with_teacher_forcing_a_noisy_block_sees_itself_and_the_clean_past() -> None:
    expected = drawn(
        "xx. ...",
        "xx. ...",
        "xxx ...",
        "... xx.",
        "... xx.",
        "xx. ..x",
    )
    assert teacher_forcing(3, 2).equal(expected)
