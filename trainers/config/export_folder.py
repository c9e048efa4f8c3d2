"""Owns the names of an exported folder and of the files in it that others look for. Must not import torch or open a file.

The launcher names a stage's input with it before anything is exported, so the name must follow from the request alone.
"""

from __future__ import annotations

from typing import Literal

WeightsKind = Literal["live", "ema"]
"""Which weights: live are those that were trained, ema their exponential moving average."""

TRAINING = "training.json"
"""The file that records what exported weights were trained as: role, step, live or ema, and the recipe's `train` block."""
COMPONENT = "transformer"
"""The folder of a pipeline's first transformer, as diffusers names it."""
LORA_FILE = "pytorch_lora_weights.safetensors"
"""The file of the first transformer's adapter, as diffusers names it; `lora_file` gives the file of any."""


def folder_name(weights: WeightsKind, role: str, *, merge: bool) -> str:
    """Return the default name of an exported folder; different weights of one run never share a name."""
    return f"export-{weights}" + ("" if role == "student" else f"-{role}") + ("-merged" if merge else "")


def lora_file(network: str) -> str:
    """Return the file name of a network's adapter.

    Stock pipelines read the second expert's with load_into_transformer_2=True, by the same tensor names as the first's.
    """
    return LORA_FILE if network == COMPONENT else LORA_FILE.replace(".safetensors", f"_{network}.safetensors")
