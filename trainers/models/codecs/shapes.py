"""Owns the moving-shapes task: its 64 modes, their captions and clips, the codec, and the exact teacher. Must not train or read parquet.

A laptop-sized text-to-video task of which everything is known in closed form: all clips can be listed, so the posterior mean (the
perfect denoiser), the lower bound of the loss and the quality of samples can be computed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ...config.data import SHAPES_CLIP, SHAPES_STRIDE
from ...errors import UserError

NUM_FRAMES, SIZE, _ = SHAPES_CLIP
FPS = 8
VAE_STRIDE = SHAPES_STRIDE
TEXT_DIM = 32
SHAPES, DIRECTIONS = ("square", "cross"), ("right", "down")
# 4x4 pixels each. Both set each of the four positions inside a 2x2 cell equally often, so all latent channels have one mean and std.
_DRAWINGS = {
    "square": np.ones((4, 4), dtype=bool),
    "cross": np.eye(4, dtype=bool) | np.eye(4, dtype=bool)[::-1],
}
_WORDS = ("a", *SHAPES, "moving", *DIRECTIONS)


@dataclass(frozen=True)
class Mode:
    """One video of the task: a shape that starts with its upper left corner at cell (row, column) of 4x4, 2 pixels apart."""

    shape: str
    direction: str
    row: int
    column: int

    @property
    def caption(self) -> str:
        return f"a {self.shape} moving {self.direction}"

    @property
    def name(self) -> str:
        return f"{self.shape}-{self.direction}-{self.row}{self.column}"

    def pixels(self) -> Tensor:
        """Return [T, H, W] in [-1, 1]: the shape moves 2 pixels a frame and wraps at the edges."""
        canvas = np.full((SIZE, SIZE), -1.0, dtype=np.float32)
        canvas[:4, :4][_DRAWINGS[self.shape]] = 1.0
        down, right = (0, 2) if self.direction == "right" else (2, 0)
        frames = [np.roll(canvas, (2 * self.row + down * t, 2 * self.column + right * t), (0, 1)) for t in range(NUM_FRAMES)]
        return torch.from_numpy(np.stack(frames))


MODES = tuple(Mode(s, d, row, column) for s in SHAPES for d in DIRECTIONS for row in range(4) for column in range(4))
HELD_OUT = tuple(sorted(int(i) for i in np.random.RandomState(99).permutation(len(MODES))[:4]))
"""Indices into MODES of which no clip is made."""
TRAINING = tuple(i for i in range(len(MODES)) if i not in HELD_OUT)


class ShapesCodec:
    """The task's stand-in for a VAE and a text encoder (see Codec): lossless latents, and frozen random vectors for the words."""

    negative_prompt = ""

    def encode_video(self, frames: Tensor) -> Tensor:
        """Return un-normalised latents [4, T, 4, 4] of frames [3, T, 8, 8] in [-1, 1]: grey, with each 2x2 cell's pixels as channels."""
        return pixel_unshuffle(frames.mean(0).unsqueeze(1), 2).transpose(0, 1).contiguous()

    def decode_video(self, latents: Tensor) -> Tensor:
        """Return [3, T, 8, 8] of un-normalised latents [4, T, 4, 4]."""
        return pixel_shuffle(latents.transpose(0, 1), 2).squeeze(1).expand(3, -1, -1, -1).contiguous()

    def decode_parts(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """Decode a video's latents part by part."""
        return map(self.decode_video, parts)

    def encode_text(self, text: str) -> Tensor:
        """Return [words, 32]; the empty prompt is one vector of its own. UserError for a word that the task lacks."""
        words = text.split() or [""]
        unknown = [w for w in words if w and w not in _WORDS]
        if unknown:
            raise UserError(f"the shapes task has no word {unknown[0]!r} (in {text!r})", f"its words: {', '.join(_WORDS)}")
        return torch.stack([_word_vector(word) for word in words])


def _word_vector(word: str) -> Tensor:
    # RandomState: the one generator whose stream numpy promises never to change
    seed = int.from_bytes(hashlib.sha256(f"shapes:{word}".encode()).digest()[:4], "little")
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(TEXT_DIM).astype(np.float32))


def templates() -> Tensor:
    """Return the un-normalised latents Z [64, 4, 5, 4, 4] of all modes, in the order of MODES."""
    codec = ShapesCodec()
    return torch.stack([codec.encode_video(mode.pixels().expand(3, -1, -1, -1)) for mode in MODES])


def latent_statistics() -> tuple[list[float], list[float]]:
    """Return (mean, std) of each channel over the training modes: a recipe's latents_mean and latents_std."""
    latents = templates()[list(TRAINING)].double().transpose(0, 1).flatten(1)
    return latents.mean(1).tolist(), latents.std(1, correction=0).tolist()


def posterior_mean(x: Tensor, sigma: Tensor | float, candidates: Tensor) -> Tensor:
    """Return E[x0 | x] for x = (1 - sigma) x0 + sigma noise, with x0 uniform over `candidates` [K, ...]: the perfect denoiser.

    x [B, ...] and candidates must be in the same (normalised) space; sigma in (0, 1] is one for all or [B]. For the conditional teacher
    give the candidates of a caption's class, for the unconditional one all training modes.
    """
    flat, means = x.double().flatten(1), candidates.double().flatten(1)
    s = torch.as_tensor(sigma, dtype=torch.float64, device=x.device).expand(len(x)).reshape(-1, 1, 1).clamp(min=1e-6)
    distances = (flat[:, None] - (1 - s) * means[None]).square().sum(-1)
    weights = torch.softmax(-distances / (2 * s[..., 0] ** 2), dim=1)
    return (weights @ means).reshape(x.shape).to(x.dtype)


def write_clips(folder: Path, *, repeats: int, upscale: int, report: Callable[[int], None]) -> int:
    """Write `repeats` clips of each training mode as folder/videos/*.mp4, with their captions; return the number of clips."""
    (folder / "videos").mkdir(parents=True)
    captions: list[dict[str, str]] = []
    for mode in (MODES[i] for i in TRAINING):
        encoded: bytes | None = None
        for repeat in range(repeats):
            path = folder / "videos" / f"{mode.name}-{repeat}.mp4"
            if encoded is None:
                write_clip(path, mode.pixels(), upscale)
                encoded = path.read_bytes()
            else:  # the same clip: no need to encode it again
                path.write_bytes(encoded)
            captions.append({"path": path.name, "cap": mode.caption})
            report(len(captions))
    (folder / "videos2caption.json").write_text(json.dumps(captions, indent=1))
    return len(captions)


def write_clip(path: Path, pixels: Tensor, upscale: int) -> None:
    """Write [T, H, W] in [-1, 1] as an H.264 file that any player shows, so nearly lossless that averaging gives the pixels back."""
    grey = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy().repeat(upscale, 1).repeat(upscale, 2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "1", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = grey.shape[2], grey.shape[1], "yuv420p"
        stream.codec_context.thread_count = 1  # starting threads takes longer than encoding
        for image in grey:
            frame = av.VideoFrame.from_ndarray(np.repeat(image[..., None], 3, -1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
