"""Owns one rank's process: `python -m trainers CONFIG --run-dir DIR`. Turns whatever happens into the exit codes of control.py.

control.py runs before torch is imported: a stop notice during the seconds that this import takes must not kill the rank.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__" and sys.path[0] == os.getcwd():  # noqa: PTH109  -m (torchrun) puts it there; nothing in it is a module of ours
    del sys.path[0]

import argparse
import importlib
import json
import logging
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from . import allocator, own_code, temporary_folders
from .config import TrainConfig, check, guidance
from .config.checkpoint import AUTO
from .config.os_errors import explain, is_site_fault
from .config.programs import download, evaluate, export, preprocess
from .control import EXIT_NO_RESTART, EXIT_SAVED, EXIT_WRONG_NODE, Control
from .errors import NodeError, UserError
from .inference.export import required_exports
from .output import outlive_full_disk

log = logging.getLogger(__name__)

EXIT_CRASHED = 1
PROGRAMS: dict[str, tuple[Any, str]] = {
    "train": (TrainConfig, "training.trainer"),
    "preprocess": (preprocess.Config, "preprocessing.job"),
    "download": (download.Config, "preprocessing.download"),
    "evaluate": (evaluate.Config, "inference.evaluate"),
    "export": (export.Config, "inference.export.job"),
}
"""What a rank can do: the key of its configuration file -> (the type of the block below that key, the module whose `run` does it)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program that the configuration names; return the exit code. Every failure is reported to the launcher."""
    outlive_full_disk()
    allocator.prefer_expandable_segments()
    control = Control().start()
    options = _parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=f"%(asctime)s rank {control.rank}: %(message)s", force=True)
    control.report_warnings()
    for text in temporary_folders.ensure():
        log.warning(text)
        control.report("warning", text=text)
    try:
        program, config = read_config(options.config)
        options.run_dir.mkdir(parents=True, exist_ok=True)
        if not required_exports.ensure(read_inputs(options.config), control):
            return EXIT_SAVED
        control.progress("loading", 0)
        module = importlib.import_module(f".{PROGRAMS[program][1]}", __package__)  # imports torch and diffusers
        control.reached("imports")
        code: int = module.run(config, options.run_dir, control)
        return code
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        control.report("failure", text=str(error))
        return EXIT_NO_RESTART
    except NodeError as error:
        sys.stderr.write(f"error: {error}\n")
        control.report("failure", text=str(error))
        return EXIT_WRONG_NODE
    except OSError as error:
        if not is_site_fault(error):
            return _crashed(control)
        text = _site_fault(error)
        sys.stderr.write(f"error: {text}\n")
        control.report("failure", text=text)
        return EXIT_CRASHED
    except BaseException:
        return _crashed(control)


def _crashed(control: Control) -> int:
    """Report the exception that is being handled, with its traceback."""
    text = traceback.format_exc()
    sys.stderr.write(text)
    control.report("failure", text="\n".join(text.strip().splitlines()[-5:])[-2000:])
    return EXIT_CRASHED


def _site_fault(error: OSError) -> str:
    """Return in a line what a disk refused, and where in the code, which may be a user's."""
    refusal = explain(error)
    frame = traceback.extract_tb(error.__traceback__)[-1] if error.__traceback__ is not None else None
    where = "" if frame is None else f" (at {frame.filename}:{frame.lineno})"
    return str(UserError(f"{error if refusal is None else refusal.message}{where}", "" if refusal is None else refusal.hint))


def read_config(path: Path) -> tuple[str, Any]:
    """Return (program, its block) of a configuration file, checked for this world size too. UserError lists all that is wrong."""
    try:
        content = json.loads(path.read_text())
        if isinstance(content, dict):
            content.pop("inputs", None)
        if not isinstance(content, dict) or len(content) != 1 or not content.keys() <= PROGRAMS.keys():
            raise UserError(f"{path} must hold one of {', '.join(PROGRAMS)}")
        [(program, block)] = content.items()
        config = TypeAdapter(PROGRAMS[program][0]).validate_python(block)
    except OSError as error:
        if is_site_fault(error):
            raise
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        hints = [guidance.conversions(e["input"]) for e in error.errors() if e["loc"] and e["loc"][-1] == guidance.OTHERS_KEY]
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UserError(f"{path}: {problems}", "; ".join(hints)) from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if isinstance(config, TrainConfig):
        config = own_code.with_own_sections(config)
    if isinstance(config, TrainConfig) and (wrong := check(config, int(os.environ.get("WORLD_SIZE", "1")))):
        raise UserError(
            f"{path}: " + "; ".join(f"{'.'.join(p.path)}: {p.message}" for p in wrong), "; ".join(p.hint for p in wrong if p.hint)
        )
    if isinstance(config, TrainConfig) and config.checkpoint.every_minutes == AUTO:
        what = "checkpoint.every_minutes: auto depends on how often the machines fail, which a rank does not know"
        raise UserError(f"{path}: {what}", "a number of minutes; whatever starts the ranks of a cluster works it out")
    return program, config


def read_inputs(path: Path) -> list[required_exports.RequiredExport]:
    """Return what must exist before the program starts: exports of other runs."""
    try:
        return TypeAdapter(list[required_exports.RequiredExport]).validate_python(json.loads(path.read_text()).get("inputs", []))
    except ValidationError as error:
        raise UserError(f"{path}: " + "; ".join(f"inputs.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainers", description="One rank of a job, whatever it does.")
    blocks = ", ".join(f"{{{name}: ...}}" for name in PROGRAMS)
    parser.add_argument("config", type=Path, help=f"JSON file with one block of a recipe: {blocks}")
    parser.add_argument("--run-dir", type=Path, required=True, help="the run's folder, shared by all ranks")
    return parser


def _leave(code: int) -> None:
    """Exit without the interpreter's teardown: after a failure it would wait for threads that wait for dead ranks."""
    sys.stdout.flush()
    sys.stderr.flush()
    logging.shutdown()
    temporary_folders.remove()
    os._exit(code)


if __name__ == "__main__":
    _leave(main())
