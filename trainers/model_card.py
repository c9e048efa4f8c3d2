"""Owns the text that goes with exported weights: README.md with a snippet that runs, and what they were trained as. Must not read runs.

Both are meant to be published, so no path of the machine stands in them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

Kind = Literal["pipeline", "transformer", "lora"]


@dataclass(frozen=True)
class Card:
    """What a card tells. `folder` is how the snippet names the weights: a path or a hub id; `base` how it names the base model."""

    name: str
    kind: Kind
    folder: str
    base: str | None
    step: int
    weights: str
    role: str
    train: Mapping[str, Any]
    versions: Mapping[str, str]
    prompt: str
    num_steps: int
    guidance_scale: float
    fps: int
    sample: str | None = None
    """File name of a sample video beside the card."""

    def text(self) -> str:
        parts = [_front_matter(self), f"# {self.name}", self._what(), self._sample(), self._how(), self._recipe()]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _what(self) -> str:
        kind = {"pipeline": "A Wan pipeline", "transformer": "A Wan transformer", "lora": "A LoRA adapter for Wan"}[self.kind]
        method = self.train["method"]["kind"]
        of = f" of `{self.base}`" if self.base else ""
        made = f"{kind}, made by `{method}` training{of}: the {self.weights} weights of `{self.role}` after {self.step} steps."
        causal = self.train["models"][self.role].get("family") == "causal-wan"
        note = "\n\nIts self-attention was trained block-causally; stock pipelines attend in both directions." if causal else ""
        return made + note

    def _sample(self) -> str:
        return f"A sample of the run's own validation: [{self.sample}]({self.sample})" if self.sample else ""

    def _how(self) -> str:
        return f"## Use\n\n```python\n{self.snippet()}```"

    def snippet(self) -> str:
        """Python that makes a file with the weights; with diffusers and nothing else."""
        if self.kind == "transformer":
            return _TRANSFORMER.format(folder=self.folder)
        data = self.train["data"]
        load = _LORA if self.kind == "lora" else _PIPELINE
        return load.format(folder=self.folder, base=self.base) + _SAMPLE.format(
            prompt=json.dumps(self.prompt, ensure_ascii=False), num_frames=data["num_frames"], height=data["height"], width=data["width"],
            num_steps=self.num_steps, guidance_scale=self.guidance_scale, text_len=data["text_len"], duration_ms=round(1000 / self.fps),
        )  # fmt: skip

    def _recipe(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        told = f"Step {self.step}, with {versions}. The `train` block of the recipe:"
        return f"## Training\n\n{told}\n\n```json\n{json.dumps(self.train, indent=1)}\n```"


def without_paths(value: Any) -> Any:
    """The same data with absolute paths cut down to their last part."""
    if isinstance(value, dict):
        return {without_paths(key): without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    return PurePosixPath(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


def _front_matter(card: Card) -> str:
    lines = ["---", "library_name: diffusers", "pipeline_tag: text-to-video"]
    hub_id = card.base is not None and card.base.count("/") == 1 and not card.base.startswith(("/", ".", "~"))
    lines += [f"base_model: {card.base}"] if hub_id else []
    lines += ["tags:", "- wan", "- text-to-video", *(["- lora"] if card.kind == "lora" else []), "---"]
    return "\n".join(lines)


_TRANSFORMER = """\
from diffusers import WanTransformer3DModel

transformer = WanTransformer3DModel.from_pretrained("{folder}", subfolder="transformer")
print(f"{{transformer.num_parameters():,}} parameters")
"""
_PIPELINE = """\
import torch
from diffusers import WanPipeline

gpu = torch.cuda.is_available()
pipe = WanPipeline.from_pretrained("{folder}", dtype=torch.bfloat16 if gpu else torch.float32)
"""
_LORA = """\
import torch
from diffusers import WanPipeline

gpu = torch.cuda.is_available()
pipe = WanPipeline.from_pretrained("{base}", dtype=torch.bfloat16 if gpu else torch.float32)
pipe.load_lora_weights("{folder}", weight_name="pytorch_lora_weights.safetensors")
"""
_SAMPLE = """\
pipe.to("cuda" if gpu else "cpu")
frames = pipe(
    prompt={prompt},
    num_frames={num_frames},
    height={height},
    width={width},
    num_inference_steps={num_steps},
    guidance_scale={guidance_scale},
    max_sequence_length={text_len},
    generator=torch.Generator().manual_seed(0),
    output_type="pil",
).frames[0]
frames[0].save("sample.webp", save_all=True, append_images=frames[1:], duration={duration_ms}, quality=90)
"""
