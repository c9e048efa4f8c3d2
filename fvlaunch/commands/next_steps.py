"""Owns what is printed when a run has finished: where its results are and what to type next. Must only read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..runs.directory import Run

if TYPE_CHECKING:
    from ..status.run_status import RunStatus


def what_next(run: Run, found: RunStatus) -> str:
    if found.last_checkpoint_step is None:  # it trained nothing
        return _written_by(run)
    return f"""results:  {run.path}
            metrics.jsonl   every step's loss
            checkpoints/    the last is step {found.last_checkpoint_step}
            tensorboard --logdir {run.path / "tensorboard"}
next:     fvlaunch export {run.name} --to DIR   (for diffusers; sample makes videos)
          fvlaunch status {run.name} --attempts
          fvlaunch resume {run.name} --set train.max_steps={2 * found.max_steps} --wait   (train on)"""


def _written_by(run: Run) -> str:
    """Return what a job that prepares something for training has written."""
    from ..config import tiny_preset
    from ..config.compose import compose

    recipe = compose(str(run.config_file)).recipe
    if recipe.evaluate is not None:
        return f"{(run.path / 'evaluation.md').read_text()}\npicture:  {run.path / 'evaluation.png'}"
    if recipe.export is not None:
        return f"results:  {recipe.export.folder}\nnext:     fvlaunch sample {recipe.export.folder} --prompt TEXT"
    if recipe.preprocess is None:
        return "next:     fvlaunch submit preprocess, or a training recipe"
    output = recipe.preprocess.output
    fits = {"videos": "finetune", "text": "kd-causal"}.get(recipe.preprocess.kind, "dmd2")
    tiny = " --set tiny=true" if (recipe.preprocess.model or "").startswith(tiny_preset.MODEL) else ""
    return f"""results:  {output}
            report.json     what was left out, and why
next:     fvlaunch submit {fits}{tiny} --set train.data.path={output}"""
