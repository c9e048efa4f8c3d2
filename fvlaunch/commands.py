"""Owns what each command does between parsing and the modules that do it; imported when a command runs, not for --help."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import index
from . import show as printing
from .errors import FvlaunchError, NotFound, UsageError
from .pipelines import Pipeline
from .runs import Run

if TYPE_CHECKING:
    from .status import RunStatus

SBATCH_OPTIONS = (
    "partition", "time", "account", "qos", "exclude", "nodelist", "constraint", "dependency", "reservation", "begin", "mem",
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """A `submit` command line."""

    recipe: str
    cluster: str | None
    sets: list[str]
    name: str | None
    ranks: int | None
    nodes: int | None
    runs_dir: Path | None
    sbatch: dict[str, Any]

    @property
    def is_pipeline(self) -> bool:
        from .config.lookup import kind_of

        return kind_of(self.recipe) == "pipeline"

    @property
    def words(self) -> dict[str, Any]:
        """What was asked for, as run.yaml keeps it."""
        return {"recipe": self.recipe, "cluster": self.cluster, "set": self.sets, "sbatch": self.sbatch}

    def pipeline_plan(self) -> Any:
        from . import pipeline_commands

        return pipeline_commands.plan(self.recipe, self.cluster, self.sets, self.name, self.ranks, self.nodes, self.sbatch, self.runs_dir)

    def plan(self, *, look: bool = True) -> tuple[Any, Any]:
        from . import request

        return request.plan_submission(
            self.recipe, self.cluster, sets=self.sets, name=self.name, ranks=self.ranks, nodes=self.nodes, sbatch=self.sbatch,
            runs_dir=self.runs_dir, look=look,
        )  # fmt: skip


def sbatch_of(given: dict[str, Any], extra: Sequence[str]) -> dict[str, Any]:
    """The sbatch options of a command line by long name: our own, and those after `--`."""
    options = {name: given[name] for name in SBATCH_OPTIONS if given.get(name) is not None}
    for word in extra:
        match = re.fullmatch(r"--([A-Za-z][A-Za-z0-9-]*)(?:=(.*))?", word, re.DOTALL)
        if not match:
            raise UsageError(f"{word!r} is not an sbatch option", hint="after `--` write them as --option=value")
        options[match[1]] = True if match[2] is None else match[2]
    return options


def dry_run(asked: Request, *, json_: bool) -> None:
    from . import beforehand

    if asked.is_pipeline:
        from . import pipeline_commands

        return pipeline_commands.dry_run(asked.pipeline_plan(), json_=json_)
    composed, plan = asked.plan(look=False)
    beforehand.dry_run(plan, json_=json_)
    return beforehand.look(composed)


def test_only(asked: Request, *, json_: bool) -> int:
    """Each cluster of `--cluster A,B` is asked by itself, and each partition of it."""
    from . import beforehand

    one_each = [replace(asked, cluster=name) for name in asked.cluster.split(",")] if asked.cluster else [asked]
    plans = [plan for one in one_each for plan in (one.pipeline_plan().stages if one.is_pipeline else [one.plan(look=False)[1]])]
    beforehand.check_slurm(plans)
    return beforehand.told(beforehand.ask(plans), json_=json_)


def smoke(asked: Request, *, take_snapshot: bool, json_: bool) -> int:
    from .smoke import smoke as tried

    return tried(asked, take_snapshot=take_snapshot, json_=json_)


def prepare(asked: Request, *, take_snapshot: bool, json_: bool) -> None:
    from . import submit as submission

    if asked.is_pipeline:
        raise UsageError(
            "--prepare is of a single run: a chain of jobs needs their ids", hint="submit the pipeline, or prepare a stage's recipe"
        )
    composed, plan = asked.plan()
    if plan.executor != "slurm":
        raise UsageError("--prepare makes a batch script, and this cluster takes none", hint="choose a Slurm cluster with --cluster")
    _warn(composed, plan)
    run, script = submission.prepare_job(plan, take_snapshot=take_snapshot, asked=asked.words)
    line = f"sbatch {shlex.quote(str(script))}"
    if json_:
        return printing.as_json({"run": run.name, "path": str(run.path), "script": str(script), "command": line, "state": "submitting"})
    printing.say(f"{run.name}: {plan.summary}; nothing was submitted. This does it, or fvlaunch resume {run.name}:")
    return printing.out(line)


def submit(asked: Request, *, wait: bool, take_snapshot: bool, json_: bool) -> int:
    from . import submit as submission

    if asked.is_pipeline:
        from . import pipeline_commands

        return pipeline_commands.submit(asked.pipeline_plan(), words=asked.words, take_snapshot=take_snapshot, wait_=wait, json_=json_)
    composed, plan = asked.plan()
    _warn(composed, plan)
    run = submission.submit(plan, take_snapshot=take_snapshot, asked=asked.words)
    return _submitted(run, plan.summary, wait=wait, json_=json_)


def _warn(composed: Any, plan: Any) -> None:
    from . import beforehand

    for line in beforehand.warnings(composed, plan):
        printing.say(line)


def _submitted(run: Run, summary: str, *, wait: bool, json_: bool) -> int:
    record = run.record()
    printing.say(f"{run.name}: {summary}; job {record.job_id}")
    if wait:
        return _wait(run, quiet=False, json_=json_)
    if json_:
        printing.as_json(
            {
                "run": run.name,
                "job_id": record.job_id,
                "path": str(run.path),
                "state": "queued" if record.executor == "slurm" else "running",
            }
        )
    else:
        printing.out(run.name)
        printing.say(f"next: fvlaunch attach {run.name}   (or status, logs, stop)")
    return 0


def fork(
    word: str, step: int, name: str, cluster: str | None, sets: list[str], ranks: int | None, sbatch: dict[str, Any], *,
    wait: bool, take_snapshot: bool, json_: bool, runs_dir: Path | None,
) -> int:  # fmt: skip
    from .fork import fork as made_of

    chosen = index.runs_dir_option(runs_dir)
    old = find(word, runs_dir)
    run, plan = made_of(old, step, name, cluster, sets=sets, ranks=ranks, sbatch=sbatch, runs_dir=chosen, take_snapshot=take_snapshot)
    printing.say(f"{run.name}: starts from step {step} of {old.name}")
    return _submitted(run, plan.summary, wait=wait, json_=json_)


def resume(
    word: str, cluster: str | None, sets: list[str], ranks: int | None, sbatch: dict[str, Any], *,
    assume_dead: str | None, wait: bool, json_: bool, runs_dir: Path | None,
) -> int:  # fmt: skip
    from . import request
    from . import submit as submission

    run = find_any(word, runs_dir)
    if isinstance(run, Pipeline):
        from . import pipeline_commands

        return pipeline_commands.resume(run, cluster, sets, ranks, sbatch, assume_dead=assume_dead, wait_=wait, json_=json_)
    plan = request.plan_resume(run, cluster, sets=sets, ranks=ranks, sbatch=sbatch)
    submission.resubmit(run, plan, assume_dead=assume_dead)
    last = run.last_checkpoint_step()
    printing.say(f"{run.name}: goes on {f'from step {last}' if last else 'from the start: there is no checkpoint'}")
    return _submitted(run, plan.summary, wait=wait, json_=json_)


def find(word: str, runs_dir: Path | None) -> Run:
    return index.find(word, [index.runs_dir_option(runs_dir) or Path("runs")])


def find_any(word: str, runs_dir: Path | None) -> Run | Pipeline:
    return index.find_any(word, [index.runs_dir_option(runs_dir) or Path("runs")])


def wait(word: str, *, quiet: bool, json_: bool, runs_dir: Path | None) -> int:
    found = find_any(word, runs_dir)
    if isinstance(found, Pipeline):
        from . import pipeline_commands

        return pipeline_commands.wait(found, quiet=quiet, json_=json_)
    return _wait(found, quiet=quiet, json_=json_)


def _wait(run: Run, *, quiet: bool, json_: bool) -> int:
    from .progress import describe
    from .progress import wait as wait_for

    code, found = wait_for(run, quiet=quiet)
    if found is None:
        return code
    if json_:
        printing.as_json(found.dump())
        return code
    printing.say(f"{describe(found)}")
    if found.state == "finished":
        printing.say(what_next(run, found))
    elif found.state in ("failed", "lost"):
        printing.say(f"{found.reason}\nnext:     fvlaunch logs {run.name}\n          fvlaunch resume {run.name}")
    return code


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
    """Of a job that prepares something for training."""
    from .config.compose import compose

    recipe = compose(str(run.config_file)).recipe
    if recipe.evaluate is not None:
        return f"{(run.path / 'evaluation.md').read_text()}\npicture:  {run.path / 'evaluation.png'}"
    if recipe.export is not None:
        return f"results:  {recipe.export.folder}\nnext:     fvlaunch sample {recipe.export.folder} --prompt TEXT"
    if recipe.preprocess is None:
        return "next:     fvlaunch submit preprocess, or a training recipe"
    output = recipe.preprocess.output
    fits = {"videos": "finetune", "text": "kd-causal"}.get(recipe.preprocess.kind, "dmd2")
    tiny = " --set tiny=true" if output.endswith("-tiny") else ""
    return f"""results:  {output}
            report.json     what was left out, and why
next:     fvlaunch submit {fits}{tiny} --set train.data.path={output}"""


def logs(word: str, *, rank: str, attempt: str | None, follow: bool, grep: str | None, agent: bool, runs_dir: Path | None) -> None:
    from . import logs as reading
    from .progress import rarely_over

    if follow and (agent or attempt is not None):
        raise UsageError("--follow shows the newest attempt of a rank", hint="leave out --attempt and --agent, or --follow")
    run, ranks = find(word, runs_dir), reading.wanted_ranks(rank)
    hide = secrets_of(run)
    if agent:
        for path in reading.agent_logs(run):
            printing.say(f"==> {path} <==")
            for line in reading.lines(path, grep):
                printing.out(hide(line))
    elif follow:
        for line in reading.follow(run, ranks, grep, rarely_over(run)):
            printing.out_now(hide(line))
    else:
        _logs(run, ranks, attempt, grep, hide)


def secrets_of(run: Run) -> Callable[[str], str]:
    """Takes out of a line what the run's profile names as a secret: a log is masked only once its attempt is over."""
    from . import secret_values
    from .config.yaml import read

    try:
        names = read(run.config_file).plain["cluster"]["secrets"]
        values = secret_values.values(name for name in names if isinstance(name, str))
    except (FvlaunchError, OSError, KeyError, TypeError):
        values = {}
    return lambda line: secret_values.redact(line, values)


def _logs(run: Run, ranks: tuple[int, ...] | None, attempt: str | None, grep: str | None, hide: Callable[[str], str]) -> None:
    """Of one attempt or of all."""
    from . import logs as reading

    numbers = reading.wanted_attempts(run, attempt)
    if numbers is None:
        newest = reading.newest_files(run, ranks)
        shown = [newest] if newest is not None else []
    else:
        shown = [(number, files) for number in numbers if (files := reading.log_files(run, number, ranks))]
    if not shown:
        printing.say(f"{run.name} has no log of a rank yet; --agent shows what its job printed")
    for number, files in shown:
        if len(shown) > 1:
            printing.say(f"==> attempt-{number:04d} <==")
        for line in reading.merged(files, grep):
            printing.out(hide(line))


def end(word: str, want: Literal["stop", "cancel"], runs_dir: Path | None) -> None:
    from . import steering

    found = find_any(word, runs_dir)
    if isinstance(found, Pipeline):
        from . import pipeline_commands

        return pipeline_commands.end(found, want)
    printing.say((steering.stop if want == "stop" else steering.cancel)(found))
    return None


def list_(what: str, *, json_: bool, runs_dir: Path | None) -> int:
    if what == "runs":
        from .status_command import status

        return status([], all_=True, attempts=False, json_=json_, runs_dir=runs_dir)
    from .config.lookup import listing

    kinds: dict[str, Literal["recipe", "cluster", "pipeline"]] = {"recipes": "recipe", "clusters": "cluster", "pipelines": "pipeline"}
    if what not in kinds:
        raise NotFound(f"cannot list {what!r}", hint="recipes, clusters, pipelines or runs")
    entries = listing(kinds[what])
    if json_:
        printing.as_json([{"name": e.name, "description": e.description, "path": str(e.path), "layer": e.layer} for e in entries])
    else:
        printing.table([what.upper(), "DESCRIPTION", "FOUND IN"], [[e.name, e.description, e.layer] for e in entries])
    return 0


def show(recipe: str, cluster: str | None, sets: list[str], *, json_: bool) -> None:
    from .config.compose import compose
    from .request import named_cluster

    composed = compose(recipe, named_cluster(recipe, cluster), sets=sets)
    data = {**composed.recipe_data, "cluster": composed.cluster_data}
    if json_:
        printing.as_json(
            {
                "recipe": composed.recipe_data,
                "cluster": composed.cluster_data,
                "origins": {".".join(map(str, k)): v for k, v in composed.origins.items()},
            }
        )
    else:
        printing.origins(printing.leaves(data), composed.origins)
