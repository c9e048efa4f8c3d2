"""Owns the text that goes with exported weights: README.md with a snippet that runs, and what they were trained as.

Must not read runs. Both are meant to be published, so no path of the machine stands in them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from ...config.counting import counted

Kind = Literal["pipeline", "transformer", "lora"]


@dataclass(frozen=True)
class FewSteps:
    """How a distilled student is sampled: timesteps, and the same levels before the shift; whether fresh noise follows each."""

    timesteps: Sequence[float]
    sigmas: Sequence[float]
    flow_shift: float
    stochastic: bool

    def text(self) -> str:
        noise = "fresh noise after each" if self.stochastic else "the implied noise after each (an ODE)"
        listed = ", ".join(f"{t:.6g}" for t in self.timesteps)
        return (
            f"Sampled in {counted(len(self.timesteps), 'step')}, at the timesteps {listed} (flow shift {self.flow_shift:g}), with {noise}."
        )

    def snippet(self) -> str:
        timesteps, sigmas = ([round(value, 6) for value in values] for values in (self.timesteps, self.sigmas))
        return _FEW_STEPS.format(shift=self.flow_shift, stochastic=self.stochastic, timesteps=timesteps, sigmas=sigmas)


@dataclass(frozen=True)
class Card:
    """The facts of a card. `folder` is how the snippet names the weights: a path or a hub id; `base` is how it names the base model."""

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
    few_steps: FewSteps | None = None
    """How a student of few steps is sampled; None for other networks."""
    sparse: bool = False
    """Whether its self-attention is video sparse attention."""
    networks: Sequence[str] = ("transformer",)
    """The folders of the role's networks; those of both experts where there are two."""

    def text(self) -> str:
        parts = [_front_matter(self), f"# {self.name}", self._what(), self._sample(), self._how(), self._recipe()]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _what(self) -> str:
        kind = {"pipeline": "A Wan pipeline", "transformer": "A Wan transformer", "lora": "A LoRA adapter for Wan"}[self.kind]
        method = self.train["method"]["kind"]
        of = f" of `{self.base}`" if self.base else ""
        made = f"{kind}, made by `{method}` training{of}: the {self.weights} weights of `{self.role}` after {counted(self.step, 'step')}."
        causal = str(self.train["models"][self.role].get("family")).startswith("causal-wan")
        note = (
            "\n\nIts self-attention was trained block-causally; stock pipelines attend in both directions. `python -m trainers.sample` "
            "goes on block by block, as it was trained to, also beyond the length of its training clips."
        )
        sparse = (
            "\n\nIts self-attention was trained as video sparse attention (arXiv 2505.13389). Stock diffusers loads the weights, says that "
            "it leaves out the gates (`to_gate_compress`), and attends densely; `python -m trainers.sample` puts both back."
        )
        few = f"\n\n{self.few_steps.text()}" if self.few_steps is not None else ""
        return made + few + (note if causal else "") + (sparse if self.sparse else "")

    def _sample(self) -> str:
        return f"A sample of the run's own validation: [{self.sample}]({self.sample})" if self.sample else ""

    def _how(self) -> str:
        return f"## Use\n\n```python\n{self.snippet()}```"

    def snippet(self) -> str:
        """Return Python code that makes a video file, or loads the weights, with diffusers and nothing else."""
        if self.kind == "transformer":
            return _TRANSFORMERS + "".join(_TRANSFORMER.format(folder=self.folder, name=name) for name in self.networks)
        data = self.train["data"]
        load = _LORA + (_LORA_2 if len(self.networks) > 1 else "") if self.kind == "lora" else _PIPELINE
        few = self.few_steps.snippet() if self.few_steps is not None else ""
        return load.format(folder=self.folder, base=self.base) + few + _SAMPLE.format(
            prompt=json.dumps(self.prompt, ensure_ascii=False), num_frames=data["num_frames"], height=data["height"], width=data["width"],
            num_steps=self.num_steps, guidance_scale=self.guidance_scale, text_len=data["text_len"], duration_ms=round(1000 / self.fps),
        )  # fmt: skip

    def _recipe(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        heading = f"Step {self.step}, with {versions}. The `train` block of the recipe:"
        return f"## Training\n\n{heading}\n\n```json\n{json.dumps(self.train, indent=1)}\n```"


def without_paths(value: Any) -> Any:
    """Return the data with absolute paths cut down to their last part."""
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


_TRANSFORMERS = """\
from diffusers import WanTransformer3DModel

"""
_TRANSFORMER = """\
{name} = WanTransformer3DModel.from_pretrained("{folder}", subfolder="{name}")
print(f"{{{name}.num_parameters():,}} parameters")
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
_LORA_2 = """\
pipe.load_lora_weights("{folder}", weight_name="pytorch_lora_weights_transformer_2.safetensors", load_into_transformer_2=True)
"""
_FEW_STEPS = """\
from diffusers import FlowMatchEulerDiscreteScheduler

pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift={shift}, stochastic_sampling={stochastic})
set_timesteps = pipe.scheduler.set_timesteps
pipe.scheduler.set_timesteps = lambda _count, device=None: set_timesteps(
    sigmas={sigmas},  # before the shift
    timesteps={timesteps},
    device=device,
)
torch.manual_seed(0)
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
