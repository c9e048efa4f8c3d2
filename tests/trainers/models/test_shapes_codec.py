"""The moving-shapes task against drawings and numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
import torch

from trainers.errors import UserError
from trainers.models.codecs import shapes
from trainers.models.codecs.shapes import MODES, Mode, ShapesCodec
from trainers.preprocessing.clips import Settings, read_clip

SETTINGS = Settings(num_frames=5, height=8, width=8, train_fps=8)


def drawing(frame: torch.Tensor) -> list[str]:
    return ["".join("#" if p > 0 else "." for p in line) for line in frame.tolist()]


def test_a_square_moves_right_by_two_pixels_and_wraps() -> None:
    pixels = Mode("square", "right", row=1, column=2).pixels()
    assert pixels.shape == (5, 8, 8)
    assert drawing(pixels[0]) == [".." * 4] * 2 + ["....####"] * 4 + [".." * 4] * 2
    assert drawing(pixels[1]) == [".." * 4] * 2 + ["##....##"] * 4 + [".." * 4] * 2
    assert torch.equal(pixels[4], pixels[0])  # 4 frames x 2 pixels is once around


def test_a_cross_moves_down_by_two_pixels() -> None:
    pixels = Mode("cross", "down", row=0, column=0).pixels()
    assert drawing(pixels[0]) == ["#..#....", ".##.....", ".##.....", "#..#...."] + ["........"] * 4
    assert drawing(pixels[1])[2:6] == drawing(pixels[0])[:4]


def test_there_are_64_different_modes_and_four_are_held_out() -> None:
    videos = {tuple(mode.pixels().flatten().tolist()) for mode in MODES}
    assert len(MODES) == len(videos) == 64
    assert shapes.HELD_OUT == (7, 16, 24, 56)
    assert len(shapes.TRAINING) == 60 and not set(shapes.TRAINING) & set(shapes.HELD_OUT)
    assert {mode.caption for mode in MODES} == {f"a {s} moving {d}" for s in ("square", "cross") for d in ("right", "down")}


def test_the_codec_makes_channels_of_the_pixels_in_a_cell() -> None:
    frames = torch.arange(64.0).reshape(1, 1, 8, 8).expand(3, -1, -1, -1)  # pixel (y, x) is 8 y + x
    latents = ShapesCodec().encode_video(frames)
    assert latents.shape == (4, 1, 4, 4)
    assert latents[:, 0, 1, 2].tolist() == [20, 21, 28, 29]  # cell (1, 2): pixels (2, 4), (2, 5), (3, 4), (3, 5)


def test_the_codec_decodes_what_it_encoded() -> None:
    video = torch.rand(5, 8, 8).expand(3, -1, -1, -1)
    torch.testing.assert_close(ShapesCodec().decode_video(ShapesCodec().encode_video(video)), video)


def test_latent_statistics_are_those_counted_by_hand() -> None:
    # The held-out modes are three squares (7, 16, 24) and a cross (56): 29 squares of 16 pixels and 31 crosses of 8 are left.
    share = (29 * 16 + 31 * 8) / (60 * 64)
    mean, std = shapes.latent_statistics()
    assert mean == pytest.approx([2 * share - 1] * 4)
    assert std == pytest.approx([2 * (share * (1 - share)) ** 0.5] * 4)


def test_a_word_has_the_same_vector_everywhere_and_the_empty_prompt_its_own() -> None:
    codec = ShapesCodec()
    first, second = codec.encode_text("a square moving right"), codec.encode_text("moving square")
    assert first.shape == (4, 32) and codec.encode_text("").shape == (1, 32)
    assert torch.equal(first[1], second[1]) and torch.equal(first[2], second[0])
    words = torch.cat([codec.encode_text("a square cross moving right down"), codec.encode_text("")])
    assert (torch.cdist(words, words) + 100 * torch.eye(7)).min() > 4  # independent vectors of 32 are about 8 apart


def test_an_unknown_word_is_named() -> None:
    with pytest.raises(UserError, match=r"no word 'circle'.*\n.*square, cross"):
        ShapesCodec().encode_text("a circle moving right")


@pytest.mark.parametrize("sigma", [0.3, 0.7, 0.95])
def test_the_posterior_mean_is_the_score_of_the_noised_density(sigma: float) -> None:
    """Tweedie: E[x0 | x] = (x + sigma^2 grad log p(x)) / (1 - sigma), with p the mixture of Gaussians written down directly."""
    z = shapes.templates().double()
    x = ((1 - sigma) * z[5] + sigma * torch.randn(z[5].shape, generator=torch.Generator().manual_seed(1)).double()).requires_grad_()
    log_p = torch.logsumexp(torch.stack([-(x - (1 - sigma) * t).square().sum() / (2 * sigma**2) for t in z]), 0)
    (score,) = torch.autograd.grad(log_p, x)
    expected = (x + sigma**2 * score) / (1 - sigma)
    torch.testing.assert_close(shapes.posterior_mean(x.detach()[None], sigma, z)[0], expected.detach())


def test_the_posterior_mean_is_the_average_of_all_at_pure_noise_and_the_nearest_without_noise() -> None:
    z = shapes.templates()
    noise = torch.randn(2, *z.shape[1:], generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(shapes.posterior_mean(noise, 1.0, z), z.mean(0).expand_as(noise))
    torch.testing.assert_close(shapes.posterior_mean(z[:2] + 0.01 * noise, torch.tensor([0.0, 0.01]), z), z[:2])


@pytest.mark.parametrize("upscale", [1, 3, 8])
def test_a_clip_gives_its_pixels_back(tmp_path: Path, upscale: int) -> None:
    pixels = Mode("cross", "right", row=2, column=1).pixels()
    shapes.write_clip(tmp_path / "clip.mp4", pixels, upscale)
    clip = read_clip(tmp_path / "clip.mp4", SETTINGS)
    assert (clip.width, clip.height, clip.fps, clip.duration_s) == (8 * upscale, 8 * upscale, 8, 5 / 8)
    assert (clip.frames - pixels).abs().max() < 0.02


def test_a_clip_plays_anywhere(tmp_path: Path) -> None:
    shapes.write_clip(tmp_path / "clip.mp4", MODES[0].pixels(), 8)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt, codec.profile) == ("h264", "yuv420p", "High")
