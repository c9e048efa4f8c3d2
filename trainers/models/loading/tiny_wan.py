"""Owns the tiny Wan: a whole WanPipeline folder of 330 KB with random weights, made here. Must not download, nor know who trains it.

Every part is the real class at its smallest, so the code that loads, trains, samples and exports it is the code for the real models.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from ...files import fsync_path, give_usual_mode, system_errors

TEXT_DIM = 32
BOUNDARY_RATIO = 0.875
"""Of the form with two experts (as Wan2.2 A14B): `transformer` above 875 of 1000, `transformer_2` below."""
_PIECES = ["<pad>", "</s>", "<unk>", "▁", *(chr(code) for code in range(33, 127)), *(f"<0x{byte:02X}>" for byte in range(256))]
"""The vocabulary. The special tokens have the ids that they have in UMT5."""


def build(folder: Path, *, seed: int = 0, experts: int = 1) -> Path:
    """Make the folder and return it; one that exists already, or that another process makes meanwhile, is left as it is.

    It holds a tokenizer, text_encoder (text_dim 32), vae (16 channels, strides 4, 8, 8), transformer (2 blocks), with experts=2 also
    transformer_2, and a scheduler. The same seed gives the same weights.
    """
    assert experts in (1, 2), experts
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with system_errors(folder):
            _pipeline(seed, experts).save_pretrained(temporary)
        _publish(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _publish(temporary: Path, folder: Path) -> None:
    for path in [*temporary.rglob("*"), temporary]:
        give_usual_mode(path)
        fsync_path(path)
    try:
        temporary.rename(folder)
    except OSError:  # it is there: another process was faster
        if not folder.is_dir():
            raise
    fsync_path(folder.parent)


def _pipeline(seed: int, experts: int) -> Any:
    import torch
    from diffusers import UniPCMultistepScheduler, WanPipeline

    with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # the caller may be making another network on "meta"
        torch.manual_seed(seed)
        return WanPipeline(
            tokenizer=_tokenizer(),
            text_encoder=_text_encoder(),
            vae=_vae(),
            transformer=_transformer(),
            transformer_2=_transformer() if experts == 2 else None,
            boundary_ratio=BOUNDARY_RATIO if experts == 2 else None,
            scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        )


def _tokenizer() -> Any:
    """Make a tokenizer with a token for each printable ASCII character, and one a byte for all others: no two prompts look the same."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram([(piece, -float(number)) for number, piece in enumerate(_PIECES)], unk_id=2, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512, padding_side="right"
    )


def _text_encoder() -> Any:
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(
        vocab_size=len(_PIECES),
        d_model=TEXT_DIM,
        d_kv=8,
        d_ff=37,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return UMT5EncoderModel(config).eval()


def _vae() -> Any:
    """Make a VAE whose latents of ordinary clips have about the mean and deviation by channel that Wan's have, so that the same
    normalisation fits."""
    import torch
    from diffusers import AutoencoderKLWan

    vae: Any = AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True])
    vae.eval()
    with torch.no_grad():
        latents = vae.encode(_waves()).latent_dist.mean
        std, mean = torch.std_mean(latents, dim=(0, 2, 3, 4))
        scale = torch.tensor(vae.config.latents_std) / std
        last = vae.quant_conv  # its first 16 outputs are the posterior's mean
        last.weight[:16] *= scale[:, None, None, None, None]
        last.bias[:16] = (last.bias[:16] - mean) * scale + torch.tensor(vae.config.latents_mean)
    return vae


def _waves() -> Any:
    """Return clips of moving colour waves [8, 3, 9, 64, 64] in [-1, 1]."""
    import torch

    frequencies, phases = 12 * torch.rand(8, 3, 3, 1, 1, 1) - 6, 6 * torch.rand(8, 3, 1, 1, 1)
    grid = torch.stack(torch.meshgrid(*(torch.linspace(0, 1, size) for size in (9, 64, 64)), indexing="ij"))
    return ((frequencies * grid).sum(2) + phases).sin() * torch.rand(8, 1, 1, 1, 1) + 0.6 * torch.rand(8, 3, 1, 1, 1) - 0.3


def _transformer() -> Any:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=TEXT_DIM,
        freq_dim=256,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    ).eval()
