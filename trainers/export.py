"""Owns `python -m trainers.export RUN --to DIR`: a run's weights as a folder that stock diffusers loads. Must not change the run.

The folder appears whole or not at all, and only after every file of weights has been read back. It holds README.md, training.json
(what the weights were trained as) and one of:
  a whole pipeline  where the role started from one: WanPipeline.from_pretrained(DIR)
  transformer/      elsewhere: WanTransformer3DModel.from_pretrained(DIR, subfolder="transformer")
  an adapter        of a LoRA run, unless merged: pipe.load_lora_weights(DIR)
Of two experts the second is in transformer_2/, its adapter in a file of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from .checkpointing import reader
from .command_line import Parser, exit_code_of
from .config.export_folder import WeightsKind
from .inference.export.folder import check, export, push
from .inference.export.weights import ExportRequest


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_code_of(lambda: _main(_parser().parse_args(arguments)))


def _main(options: argparse.Namespace) -> None:
    if options.check_only == "options":
        return
    checkpoint = reader.open_checkpoint(options.run, options.step, verify=not options.check_only)
    request = ExportRequest(
        checkpoint, options.to, options.role, options.weights, options.merge, options.dtype, options.max_shard_gb, options.lora_keys,
        options.push_to_hub,
    )  # fmt: skip
    if options.check_only:
        check(request)
        return
    made = export(request)
    sys.stderr.write(f"step {checkpoint.step}, {options.weights} weights of {options.role}: {request.kind} in {made}\n")
    if options.push_to_hub:
        sys.stderr.write(f"uploaded to {push(made, options.push_to_hub)}\n")
    sys.stdout.write(f"{made}\n")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m trainers.export", description="A run's weights as a folder that stock diffusers loads.")
    add = parser.add_argument
    add("run", type=Path, help="the run's directory")
    add("--to", type=Path, required=True, metavar="DIR", help="folder to make")
    add("--step", type=int, help="checkpoint; default: the newest that verifies")
    add("--weights", choices=get_args(WeightsKind), default="live", help="trained weights or their moving average")
    add("--role", default="student")
    add("--merge", action="store_true", help="LoRA: write whole weights with the adapter in them")
    add("--lora-keys", choices=["diffusers", "original"], default="diffusers", help="names in an adapter's file")
    add("--dtype", choices=["fp32", "bf16"], default="fp32", help="fp32 is bit by bit what was trained")
    add("--max-shard-gb", type=float, default=10.0, help="larger weights are written in several files")
    add("--push-to-hub", metavar="ORG/NAME", help="then upload it to the Hugging Face hub (private)")
    parser.add_check_only()
    return parser


if __name__ == "__main__":
    sys.exit(main())
