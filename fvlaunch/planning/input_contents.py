"""Owns judging, before a job is queued, what a run will read: samples against the global batch, a source's layout and entries.

Must not fail a submission because the look itself failed: that is told in a line, and the job looks again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from trainers.config import data_folder, preprocess_output
from trainers.config.trajectory_cost import trajectory_cost

from ..config.compose import Composed
from ..config.strict_yaml import KeyPath
from ..config.values import dotted
from ..errors import ConfigError, Problem, counted
from .input_readers import NotAnswered, ask
from .plan import in_container

_PATH: KeyPath = ("train", "data", "path")
_SOURCE: KeyPath = ("preprocess", "source")
_HUB = ("HF_HOME", "HF_HUB_CACHE")


def check_contents(composed: Composed, made_before: Collection[str] = (), ranks: int | None = None) -> tuple[str, ...]:
    """Return what a person is to be told of the inputs, a line each; ConfigError where no job could run on them.

    `made_before`: folders that an earlier stage of a pipeline will make. `ranks`: of the job; None: the recipe's.
    """
    if in_container(composed.cluster.srun_args):
        return ("note: data, clips and models were not looked at: the job runs in a container, where paths may differ",)
    look = _Look(composed, frozenset(made_before), ranks or composed.recipe.resources.ranks)
    if look.problems:
        raise ConfigError(look.problems)
    return tuple(look.notes)


class _Look:
    """Looks at all inputs of a recipe; what is wrong goes to `problems`, what is to be told to `notes`."""

    def __init__(self, composed: Composed, made_before: frozenset[str], ranks: int) -> None:
        self._composed, self._made_before, self._ranks = composed, made_before, ranks
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self._training()
        self._held_out()
        self._source()

    # --- what is trained on

    def _training(self) -> None:
        train = self._composed.recipe.train
        if train is None:
            return None
        if train.data.prepare is not None:
            return self._check_batch(train.data.prepare.num_samples)
        data = train.data if list(train.method.read_folders(train)) else train.method.training_data(train)
        needs = train.method.needs if data is not train.data or train.method.needs != "trajectory" else "text"
        folders = data.folders
        if any(folder in self._made_before or not Path(folder).exists() for folder in folders):
            return None  # they are made later; what is missing was told before this
        if train.data.source is not None:
            return self.notes.append(f"note: the samples of {_and(folders)} were not counted: {train.data.source} reads them")
        apart = [folder for folder in folders if data_folder.HOLDOUT in Path(folder).parts]
        self.notes += [f"warning: {folder} is trained on, whose name says that it was held out from training" for folder in apart]
        begun = [folder for folder in folders if any(map(preprocess_output.is_unfinished, data_folder.places_beside(Path(folder))))]
        self.notes += [f"warning: {folder} holds what was written so far of a preprocess that has not ended" for folder in begun]
        answer = self._ask_data(folders, needs, _PATH)
        if answer is not None:
            self._sizes(answer["latents"])
            made = getattr(train.method, "num_trajectories", None) if data is train.data else None
            if data is train.data and answer["counted"] == answer["files"]:
                self._trajectories(int(answer["samples"]))
            self._batch(answer if made is None else {**answer, "samples": made, "counted": answer["files"]})
        return None

    def _batch(self, answer: Mapping[str, Any]) -> None:
        train = self._composed.recipe.train
        assert train is not None
        samples, batch = int(answer["samples"]), train.data.global_batch_size
        if answer["counted"] < answer["files"]:
            self.notes.append(
                f"note: {counted(samples, 'sample')} in {answer['counted']} of "
                f"{counted(answer['files'], 'file')}; the others were not counted"
            )
        elif samples >= batch:
            steps = samples // batch
            left = f", {counted(samples % batch, 'sample')} left out of each" if samples % batch else ""
            self.notes.append(f"data: {counted(samples, 'sample')}, {counted(steps, 'step')} an epoch{left}")
        else:
            self._check_batch(samples)

    def _trajectories(self, prompts: int) -> None:
        """Tell what it costs to make a trajectory of each prompt. Where something else says how many there are, it is told elsewhere."""
        train = self._composed.recipe.train
        assert train is not None
        cost = trajectory_cost(train, prompts)
        if cost is not None and trajectory_cost(train) != cost and (line := cost.line(self._ranks)):
            self.notes.append(line)

    def _check_batch(self, samples: int) -> None:
        train = self._composed.recipe.train
        assert train is not None
        batch = train.data.global_batch_size
        if samples < batch:
            message = f"the data has {counted(samples, 'sample')}, less than one global batch of {batch}"
            self._problem(("train", "data", "global_batch_size"), message, f"{samples} or less, or more data")

    def _sizes(self, latents: Mapping[str, list[int] | None]) -> None:
        train = self._composed.recipe.train
        assert train is not None
        expected = list(train.data.latent_shape)
        for folder, sizes in latents.items():
            if sizes is not None and sizes[1:] != expected:
                message = (
                    f"{folder} holds latents of {_times(sizes[1:])} (frames x height x width), and the recipe wants {_times(expected)}"
                )
                hint = "train.data.num_frames, height and width say what; or preprocess the clips at that size"
                self._problem(("train", "data", "num_frames"), message, hint)

    def _held_out(self) -> None:
        """Look at the folder that the validation loss is told to read."""
        train = self._composed.recipe.train
        validation = None if train is None else train.callbacks.validation
        folder = validation.loss.path if validation is not None and validation.loss is not None else None
        if train is None or folder is None or folder in self._made_before or train.method.needs != "latents":
            return None
        path: KeyPath = ("train", "callbacks", "validation", "loss", "path")
        if not Path(folder).exists():
            return self._problem(path, f"{folder} does not exist", "a folder of parquet files, or null: the holdout beside the data")
        answer = self._ask_data({folder: 1}, "latents", path)
        if answer is not None:
            self._sizes(answer["latents"])
        return None

    def _ask_data(self, folders: Mapping[str, int], needs: str, path: KeyPath) -> dict[str, Any] | None:
        answer = ask("trainers.data", {"folders": folders, "needs": needs}, self._environment)
        if isinstance(answer, NotAnswered):
            self.notes.append(f"note: the samples of {_and(folders)} were not looked at: {answer.reason}")
            return None
        if "error" in answer:
            self._problem(path, answer["error"], answer["hint"])
            return None
        self.notes += [f"warning: {remark}" for remark in answer["remarks"]]
        return answer

    # --- what is preprocessed

    def _source(self) -> None:
        block: Any = self._composed.recipe.preprocess
        if block is None or block.source in self._made_before:
            return
        answer = ask("trainers.sources", block.resolved(), self._environment)
        if isinstance(answer, NotAnswered):
            self.notes.append(f"note: the entries of {block.source} were not looked at: {answer.reason}")
        elif "error" in answer:
            self._problem(_SOURCE, answer["error"], answer["hint"])
        else:
            if "entries" in answer:
                self._entries(block, answer)
            if not self.problems and (block.kind == "rewrite" or preprocess_output.settings(Path(block.output)) is not None):
                self._continuation(block)

    def _continuation(self, block: Any) -> None:
        """Look at an output in which a preprocessing was begun already, and at the rows of others' files."""
        answer = ask("trainers.preprocessing", block.resolved(), self._environment)
        if isinstance(answer, NotAnswered):
            self.notes.append(f"note: what {block.output} holds of {block.source} already was not looked at: {answer.reason}")
        elif "error" in answer:
            self._problem(_SOURCE, answer["error"], answer["hint"])
        elif answer["written"] or block.kind == "rewrite":
            self.notes.append(f"output: {answer['written']} of the {counted(answer['entries'], 'entry', 'entries')} are written already")

    def _entries(self, block: Any, answer: Mapping[str, Any]) -> None:
        entries, usable = int(answer["entries"]), int(answer["usable"])
        reasons = ", ".join(f"{count} {reason}" for reason, count in answer["rejected"].items())
        first = "; ".join(f"{problem['name']}: {problem['text']}" for problem in answer["problems"])
        self.notes += [f"warning: {remark}" for remark in answer["remarks"]]
        if not usable:
            self._problem(_SOURCE, f"none of the {counted(entries, 'entry', 'entries')} of {block.source} can be used ({reasons})", first)
        elif entries - usable > block.max_rejected * entries:
            message = (
                f"{entries - usable} of the {counted(entries, 'entry', 'entries')} of {block.source} "
                f"cannot be used ({reasons}), more than max_rejected allows"
            )
            self._problem(("preprocess", "max_rejected"), message, f"mend them, or a larger max_rejected; the first: {first}")
        else:
            layout = f", {answer['layout']}" if answer["layout"] else ""
            wrong = f"; {entries - usable} cannot be used: {reasons}" if entries > usable else ""
            self.notes.append(f"source: {counted(entries, 'entry', 'entries')}{layout}{wrong}")

    # --- both

    @property
    def _environment(self) -> dict[str, str]:
        """Return the Hugging Face folders of the profile: the reader looks where the job looks."""
        return {key: value for key, value in self._composed.cluster.env.items() if key in _HUB}

    def _problem(self, path: KeyPath, message: str, hint: str) -> None:
        self.problems.append(Problem(message, self._composed.place(path), dotted(path), hint))


def _and(folders: Iterable[str]) -> str:
    return " and ".join(folders)


def _times(sizes: list[int]) -> str:
    return "x".join(map(str, sizes))
