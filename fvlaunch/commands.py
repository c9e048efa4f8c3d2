"""Owns what each command does between parsing and the modules that do it; imported when a command runs, not for --help."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from . import index
from . import show as printing
from .attempts import read_attempts
from .errors import EXIT_SCHEDULER, NotFound, UsageError, render
from .pipelines import Pipeline
from .runs import FINAL_STATES, Run
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

    def pipeline_plan(self) -> Any:
        from . import pipeline_commands

        return pipeline_commands.plan(self.recipe, self.cluster, self.sets, self.name, self.ranks, self.nodes, self.sbatch, self.runs_dir)

    def plan(self) -> tuple[Any, Any]:
        from . import request

        return request.plan_submission(
            self.recipe, self.cluster, sets=self.sets, name=self.name, ranks=self.ranks, nodes=self.nodes, sbatch=self.sbatch,
            runs_dir=self.runs_dir,
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
    from . import jobs
    from . import submit as submission
    from .config.yaml import dump

    if asked.is_pipeline:
        from . import pipeline_commands

        return pipeline_commands.dry_run(asked.pipeline_plan(), json_=json_)
    _, plan = asked.plan()
    run, token = Run(plan.path), jobs.new_token()
    script = submission.batch_script(run, plan, run.job / token, token) if plan.executor == "slurm" else None
    if json_:
        printing.as_json({"run": plan.name, "path": plan.path, "summary": plan.summary, "recipe": plan.recipe, "batch_script": script})
        return None
    printing.say(f"{plan.name}: {plan.summary}; nothing was submitted")
    printing.out(dump(plan.recipe))
    if script:
        printing.out(script)
    return None


def submit(asked: Request, *, wait: bool, take_snapshot: bool, json_: bool) -> int:
    from . import submit as submission

    words = {"recipe": asked.recipe, "cluster": asked.cluster, "set": asked.sets, "sbatch": asked.sbatch}
    if asked.is_pipeline:
        from . import pipeline_commands

        return pipeline_commands.submit(asked.pipeline_plan(), words=words, take_snapshot=take_snapshot, wait_=wait, json_=json_)
    _, plan = asked.plan()
    run = submission.submit(plan, take_snapshot=take_snapshot, asked=words)
    return _submitted(run, plan.summary, wait=wait, json_=json_)


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


def status(words: list[str], *, all_: bool, attempts: bool, json_: bool, runs_dir: Path | None) -> int:
    from .pipeline_status import PipelineStatus, of

    runs = [find_any(word, runs_dir) for word in words] if words else _shown(_known(runs_dir), all_)
    found, unreachable = of(runs)
    if json_:
        printing.as_json(
            [{**s.dump(), "attempts_list": _attempts(run)} if attempts else s.dump() for s, run in zip(found, runs, strict=True)]
        )
    elif len(words) == 1 and isinstance(found[0], PipelineStatus):
        printing.one_pipeline(found[0], found[0].stages)
        for stage in runs[0].stages if attempts and isinstance(runs[0], Pipeline) else ():
            printing.out(f"\n{stage.name}")
            printing.attempts_table(read_attempts(stage))
    elif len(words) == 1 and isinstance(runs[0], Run):
        printing.one_status(found[0], read_attempts(runs[0]) if attempts or found[0].attempts > 1 else [])
    elif found:
        printing.statuses(found)
        for s, run in zip(found, runs, strict=True):
            if attempts and isinstance(run, Run):
                printing.out(f"\n{s.run}")
                printing.attempts_table(read_attempts(run))
    else:
        printing.say("no runs yet; fvlaunch submit shapes-finetune starts one here")
    if unreachable:
        printing.say(render(unreachable))
        return EXIT_SCHEDULER
    return 0


def _attempts(run: Run | Pipeline) -> list[dict[str, Any]]:
    """Of a run; of a pipeline those of all its stages, in order."""
    from dataclasses import asdict

    if isinstance(run, Pipeline):
        return [{"stage": stage.path.name, **attempt} for stage in run.stages for attempt in _attempts(stage)]
    return [asdict(a) for a in read_attempts(run)]


def _shown(runs: list[Run | Pipeline], all_: bool) -> list[Run | Pipeline]:
    if all_:
        return runs
    newest = set(runs[-10:])
    return [run for run in runs if run in newest or not _is_over(run)]


def _is_over(run: Run | Pipeline) -> bool:
    stages = run.stages if isinstance(run, Pipeline) else [run]
    return all(stage.record().state in FINAL_STATES for stage in stages)


def _known(runs_dir: Path | None) -> list[Run | Pipeline]:
    return index.known_whole([index.runs_dir_option(runs_dir) or Path("runs")])


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
        printing.say(_what_next(run, found))
    elif found.state in ("failed", "lost"):
        printing.say(f"{found.reason}\nnext:     fvlaunch logs {run.name}\n          fvlaunch resume {run.name}")
    return code


def _what_next(run: Run, found: RunStatus) -> str:
    if found.last_checkpoint_step is None:  # it trained nothing
        return _written_by(run)
    return f"""results:  {run.path}
            metrics.jsonl   every step's loss
            checkpoints/    the last is step {found.last_checkpoint_step}
            tensorboard --logdir {run.path / "tensorboard"}
next:     fvlaunch status {run.name} --attempts
          fvlaunch resume {run.name} --set train.max_steps={2 * found.max_steps} --wait   (train on)"""


def _written_by(run: Run) -> str:
    """Of a job that prepares something for training."""
    from .config.compose import compose

    recipe = compose(str(run.config_file)).recipe
    if recipe.evaluate is not None:
        return f"{(run.path / 'evaluation.md').read_text()}\npicture:  {run.path / 'evaluation.png'}"
    output = getattr(recipe.preprocess, "output", None)
    if output is None:
        return "next:     fvlaunch submit preprocess, or a training recipe"
    return f"""results:  {output}
            report.json     what was left out, and why
next:     fvlaunch submit finetune --set train.data.path={output}"""


def logs(word: str, *, rank: int, attempt: int | None, follow: bool, grep: str | None, agent: bool, runs_dir: Path | None) -> None:
    from . import logs as reading
    from .progress import rarely_over

    if follow and (agent or attempt is not None):
        raise UsageError("--follow shows the newest attempt of a rank", hint="leave out --attempt and --agent, or --follow")
    run = find(word, runs_dir)
    if agent:
        for path in reading.agent_logs(run):
            printing.say(f"==> {path} <==")
            for line in reading.lines(path, grep):
                printing.out(line)
        return
    if follow:
        for line in reading.follow(run, rank, grep, rarely_over(run)):
            printing.out(line)
        return
    found = reading.log_file(run, attempt, rank)
    if found is None:
        printing.say(f"{run.name} has no log of a rank yet; --agent shows what its job printed")
        return
    for line in reading.lines(found, grep):
        printing.out(line)


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
