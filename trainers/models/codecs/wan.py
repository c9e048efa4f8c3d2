"""Owns Wan's codec: its VAE between pixels and latents, and its UMT5 encoder between words and embeddings.

Must not know datasets, prompt files or training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import UserError, first_line
from ...files import digest_file

TEXT_LEN = 512
"""How many tokens Wan's text encoder is given at most."""

DEFAULT_NEGATIVE_PROMPT = (
    "Bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, images, static, overall gray, "
    "worst quality, low quality, JPEG compression residue, ugly, incomplete, extra fingers, poorly drawn hands, poorly drawn faces, "
    "deformed, disfigured, misshapen limbs, fused fingers, still picture, messy background, three legs, many people in the background, "
    "walking backwards"
)
"""Wan's own negative prompt, in the English form that its 1.3B recipes use."""


class WanCodec:
    """The VAE (`video`) and the text encoder (`text`) of a diffusers folder. Everything it returns is float32 on the CPU."""

    negative_prompt = DEFAULT_NEGATIVE_PROMPT

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype, *, text: bool = True, video: bool = True) -> None:
        self._folder, self._device, self._dtype = folder, device, dtype
        self._vae: Any = self._load_vae() if video else None
        self._tokenizer: Any = None
        self._text_encoder: Any = None
        if text:
            self._tokenizer, self._text_encoder = self._load_text()

    @property
    def strides(self) -> tuple[int, int, int]:
        """Pixels for each latent over (time, height, width)."""
        config = self._vae_or_fail().config
        space = int(config.scale_factor_spatial)
        return int(config.scale_factor_temporal), space, space

    def encode_video(self, frames: Tensor) -> Tensor:
        """Return the posterior mean, un-normalised, [C, (T - 1) / 4 + 1, H / 8, W / 8] of frames [3, T, H, W] in [-1, 1]. T is 1 + a
        multiple of 4."""
        with torch.inference_mode():
            posterior = self._vae_or_fail().encode(frames[None].to(self._device, self._dtype)).latent_dist
            return _plain(posterior.mode()[0])

    def decode_video(self, latents: Tensor) -> Tensor:
        """Return [3, 4 (T' - 1) + 1, 8 H', 8 W'] in [-1, 1] of un-normalised latents [C, T', H', W']."""
        with torch.inference_mode():
            return _plain(self._vae_or_fail().decode(latents[None].to(self._device, self._dtype)).sample[0].clamp(-1, 1))

    def decode_parts(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """Decode a video's latents as they come, [C, n, H', W'] each: the decoder looks back only, at the activations that it remembers.

        The first frame of latents gives one frame, each later one four.
        """
        vae = self._vae_or_fail()
        remembered: list[Any] = [None] * vae._cached_conv_counts["decoder"]
        first = True
        for part in parts:
            with torch.inference_mode():
                hidden, made = vae.post_quant_conv(part[None].to(self._device, self._dtype)), []
                for frame in hidden.split(1, 2):
                    made.append(vae.decoder(frame, feat_cache=remembered, feat_idx=[0], first_chunk=first))
                    first = False
                yield _plain(self._unpatched(torch.cat(made, 2))[0].clamp(-1, 1))

    def _unpatched(self, frames: Tensor) -> Tensor:
        from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

        size = self._vae_or_fail().config.patch_size  # only Wan2.2's 5B model has one
        pixels: Tensor = frames if size is None else unpatchify(frames, patch_size=size)
        return pixels

    def encode_text(self, text: str) -> Tensor:
        """Return [tokens, D]: the last hidden state of the prompt, which is cleaned and cut to 512 tokens as in WanPipeline."""
        from diffusers.pipelines.wan.pipeline_wan import prompt_clean

        assert self._tokenizer is not None and self._text_encoder is not None, "made without the text encoder"
        # padded although the padding is cut off again, so that sums equal those of WanPipeline bit by bit
        options = {"padding": "max_length", "max_length": TEXT_LEN, "truncation": True, "return_tensors": "pt"}
        tokens = self._tokenizer([prompt_clean(text)], return_attention_mask=True, **options)
        mask = tokens.attention_mask
        with torch.inference_mode():
            hidden = self._text_encoder(tokens.input_ids.to(self._device), mask.to(self._device)).last_hidden_state[0]
            return _plain(hidden[: int(mask.sum())])

    def free_text(self) -> None:
        """Free the text encoder's memory (UMT5-XXL in float32 is 22 GB); no text can be encoded afterwards."""
        self._tokenizer = self._text_encoder = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _vae_or_fail(self) -> Any:
        assert self._vae is not None, "made without the VAE"
        return self._vae

    def _load_vae(self) -> Any:
        from diffusers import AutoencoderKLWan

        return self._module("vae", AutoencoderKLWan.from_pretrained)

    def _load_text(self) -> tuple[Any, Any]:
        from transformers import AutoTokenizer, UMT5EncoderModel
        from transformers.utils import logging

        logging.disable_progress_bar()  # it would fill the logs of jobs
        tokenizer = _load(self._folder, "tokenizer", lambda path: AutoTokenizer.from_pretrained(path, local_files_only=True))
        return tokenizer, self._module("text_encoder", UMT5EncoderModel.from_pretrained)

    def _module(self, part: str, load: Callable[..., Any]) -> Any:
        module = _load(self._folder, part, lambda path: load(path, dtype=self._dtype, local_files_only=True))
        return module.eval().requires_grad_(False).to(self._device)


def text_encoder_digest(folder: Path, tick: Callable[[int], None] = lambda _bytes: None) -> str:
    """Return a digest of every file of a model folder's tokenizer and text encoder: embeddings of different encoders must not be mixed."""
    hasher = hashlib.blake2b(digest_size=32)
    for part in ("tokenizer", "text_encoder"):
        for path in sorted(p for p in (folder / part).rglob("*") if p.is_file() and not p.name.startswith(".")):
            entry = digest_file(path, tick)
            hasher.update(f"{path.relative_to(folder).as_posix()} {entry.size} {entry.digest}\n".encode())
    return hasher.hexdigest()


def _plain(values: Tensor) -> Tensor:
    return values.float().cpu().clone()


def _load(folder: Path, part: str, load: Callable[[Path], Any]) -> Any:
    if not (folder / part).is_dir():
        raise UserError(f"the model folder {folder} has no {part}", "a Wan folder in diffusers' layout has vae, text_encoder and tokenizer")
    try:
        return load(folder / part)
    except Exception as error:  # the libraries raise nearly everything for a damaged folder
        raise UserError(
            f"cannot load {folder / part}: {first_line(error)}", "the folder is damaged or not a Wan model's: download it again"
        ) from error
