"""Owns what the command line must withstand: a place with everything that people get wrong in it, and command lines that use it.

As a program (python -m tests.support.hostile COUNT SEED FOLDER [--programs]) it calls COUNT command lines in this process and prints those
that ended in a traceback or with a code that no mistake of a person may have. It gives up the rights that root has over others' files.
Without --programs no command line starts the trainers' programs, which load torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.paths import ROOT
from tests.support.records import record

NO_RIGHTS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--inh-caps=-dac_override,-dac_read_search,-fowner"]
"""Before a program: root is an ordinary owner of its files then."""
GOOD = {0, 1, 3, 130}
SECONDS = 60
"""No command line of these may take longer."""
RUNS = [
    "good", "good-2", "broken", "empty", "no-config", "binary-config", "folder-for-record", "number-record", "torn-events", "shut",
    "closed-record", "go",
    "nobody", "pipe", "pipe/one", "bad-pipe", "last", "9", "local-1-1", "gone-link", "loop", "goo*", "*", "[", "?" * 5, "x/*", "runs/good",
    "./runs", ".", "..", "/", "/dev/null", "runs/shut", "runs/shut/deep", "deep/er/er", "a" * 300,
    "", " ", "ümläut", "日本語", "\udcff\udcfe",
    "a\nb", "a\x00b", "-1", "--", "$(x)", "%s", "~", "~nobody/x", "\u202e", "runs/good/run.yaml",
]  # fmt: skip
NO_RUNS = ["empty", "shut", "closed-record", "gone-link", "loop", "[", "x/*", "runs/shut/deep", "", " ", "a\x00b", "/dev/null"]
"""Of these nothing is there to start a program on."""
FILES = [
    "shapes-finetune", "finetune", "shapes", "none", "empty.yaml", "binary.yaml", "list.yaml", "deep.yaml", "utf16.yaml",
    "folder.yaml", "fifo.yaml",
    "shut.yaml", "loop.yaml", "gone.yaml", "circle.yaml", "huge.yaml", "no-recipe.yaml", "nul.yaml", "pipe.yaml", "runs/good/run.yaml",
    "runs/binary-config/run.yaml", "runs/shut/run.yaml", "runs", "/dev/null", "/dev/full", "./none.yaml", "x" * 300,
    "x" * 300 + ".yaml", "", "a/b/c/d/e/f",
    "..", "base/shapes", "\udcff.yaml", "é.yaml", "a\nb", "a\x00.yaml", "-", "~/x.yaml", "~nobody/x.yaml",
]  # fmt: skip
FOLDERS = [
    "/dev/null/x",
    "file",
    "file/x",
    "gone",
    "gone/x",
    "loop",
    "loop/x",
    "/proc/x",
    "/dev/full",
    "shut/x",
    "x" * 300,
    "fifo.yaml",
    "a\x00b",
]
"""Where nothing can be made."""
VALUES = [
    "", "x", "-1", "0", "1e999", "nan", "true", "99999999999999999999", "a\nb", "a\x00b", "\udcff", "日本語", "x" * 3000, "[", "{a: [",
    "*x", "&x", "!!int 3", "%s", "../x",
    "/dev/full", "shut", "$(id)", "${HOME}", "${paths.none}", "'", '"', "# x", "null", "[1, 2]", "{a: 1}",
]  # fmt: skip
KEYS = [
    "tiny", "train", "train.max_steps", "train.data.path", "train.data", "train.method.kind", "train.models.student.init_from",
    "cluster", "cluster.runs_dir",
    "cluster.slurm.time", "cluster.notify", "cluster.env.X", "resources.ranks", "cluster.paths.data", "extends", "x.y.z", "", ".",
    "a..b", "=", "description",
    "train.checkpoint.every_steps", "train.optimizers.student.lr", "cluster.executor", "cluster.python", "cluster.secrets",
    "preprocess", "train.tracking",
]  # fmt: skip
NUMBERS = ["0", "-1", "1", "3", "x", "", "1.5", "99999999999999999999", "1e3", "٣", "a\x00b"]
CLUSTERS = [
    "local",
    "none",
    "broken",
    "slurmish",
    "utf16",
    "folder",
    "./clusters/shut.yaml",
    "a,b",
    "",
    "x" * 300,
    "../x",
    "a\x00b",
    "\udcff",
    "empty",
    "/dev/null",
]


def make(folder: Path) -> None:
    """Fill a folder, the working directory to be, with what people get wrong."""
    from fvlaunch.runs.directory import create

    for name in ("runs", "clusters", "shut", "folder.yaml", "home"):
        (folder / name).mkdir()
    (folder / "file").write_text("x")
    for name, target in (("gone", "nowhere/at/all"), ("loop", "loop"), ("loop.yaml", "loop.yaml"), ("gone.yaml", "nowhere.yaml")):
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "fifo.yaml")
    texts: dict[str, bytes] = {
        "empty.yaml": b"",
        "binary.yaml": bytes(range(256)) * 20,
        "list.yaml": b"- a\n- b\n",
        "deep.yaml": b"a: " + b"[" * 500,
        "nul.yaml": b"a: \x00\n",
        "utf16.yaml": "train: {}\n".encode("utf-16"),
        "shut.yaml": b"extends: base/shapes\n",
        "circle.yaml": b"extends: ./circle.yaml\n",
        "huge.yaml": b"a: " + b"x" * 1_100_000,
        "no-recipe.yaml": b"recipe: {}\ncluster: {}\nlock: {}\n",
        "clusters/broken.yaml": b"executor: [\n",
        "clusters/slurmish.yaml": b"executor: slurm\npaths: {data: data}\n",
        "clusters/utf16.yaml": "executor: local\n".encode("utf-16"),
        "clusters/shut.yaml": b"executor: local\n",
        "clusters/empty.yaml": b"",
        "\u00e9.yaml": b"extends: base/shapes\n",
        "pipe.yaml": b"stages:\n  one: {recipe: none}\n  two: {recipe: shapes-finetune, set: {train.x: 1}}\n",
    }
    for name, text in texts.items():
        (folder / name).write_bytes(text)
    (folder / "clusters/folder.yaml").mkdir()
    runs = {name: create(folder / "runs" / name, record(name, state="finished", cluster="local", job_ids=("9",))) for name in RUNS[:12]}
    config = f"recipe: {json.dumps({'extends': 'base/shapes'})}\ncluster: {json.dumps({'executor': 'local'})}\n"
    for run in runs.values():
        run.config_file.write_text(config)
    runs["broken"].record_file.write_text("{")
    shutil.rmtree(runs["empty"].path)
    runs["empty"].path.mkdir()
    runs["no-config"].config_file.unlink()
    runs["binary-config"].config_file.write_bytes(bytes(range(256)))
    runs["folder-for-record"].record_file.unlink()
    runs["folder-for-record"].record_file.mkdir()
    runs["number-record"].record_file.write_text('{"name": 3, "submitted_at": "x"}')
    runs["torn-events"].events_file.write_bytes(b'\xff\xfe{"event": 3}\n[]\n3\n')
    runs["torn-events"].attempt_log(1).write_bytes(b'{"event": "started"}\n\xff\n')
    (folder / "runs/gone-link").symlink_to("nowhere")
    (folder / "runs/loop").symlink_to("loop")
    for name, text in (("pipe", '{"name": "pipe", "stages": [{"name": "one", "exports": []}]}'), ("bad-pipe", "[]")):
        (folder / "runs" / name).mkdir()
        (folder / "runs" / name / "pipeline.json").write_text(text)
    runs["closed-record"].record_file.chmod(0)
    for closed in (folder / "shut", folder / "shut.yaml", folder / "clusters/shut.yaml", runs["shut"].path):
        closed.chmod(0)


def command_line(draw: random.Random, *, programs: bool) -> list[str]:
    """Return one command line: a command, what it needs, some options, in which nearly everything may be wrong."""
    one = draw.choice
    run, recipe = (lambda: one(RUNS)), (lambda: one(FILES))
    sets = lambda: ["--set", f"{one(KEYS)}={one(VALUES)}"]  # noqa: E731
    runs_dir = lambda: ["--runs-dir", one([*FOLDERS, *["runs"] * 12, "none"])]  # noqa: E731
    cluster = lambda: ["--cluster", one(CLUSTERS)]  # noqa: E731
    number = lambda name: lambda: [name, one(NUMBERS)]  # noqa: E731
    value = lambda name, of=VALUES: lambda: [name, one(of)]  # noqa: E731
    trained = lambda: one(RUNS if programs else NO_RUNS)  # noqa: E731
    few: dict[str, tuple[Callable[[], list[str]], list[Callable[[], list[str]]]]] = {
        "submit": (
            lambda: [recipe(), *one([["--dry-run"], ["--test-only"], ["--runs-dir", one(FOLDERS)]])],
            [
                sets,
                sets,
                cluster,
                number("--ranks"),
                number("--nodes"),
                value("--name"),
                value("-t"),
                value("-p"),
                value("--mem"),
                lambda: ["--", one(VALUES)],
            ],
        ),
        "status": (lambda: one([[], [run()], [run(), run()]]), [runs_dir, lambda: ["--all"], lambda: ["--attempts"], lambda: ["--json"]]),
        "wait": (lambda: [run()], [runs_dir]),
        "attach": (lambda: [run()], [runs_dir]),
        "logs": (lambda: [run()], [value("--rank"), number("--attempt"), value("--grep"), lambda: ["--agent"], runs_dir]),
        "stop": (lambda: [run(), *one([[], [run()]])], [runs_dir]),
        "cancel": (lambda: [run()], [runs_dir]),
        "resume": (lambda: [run(), "--ranks", one(["0", "-1", "x"])], [sets, cluster, value("--assume-dead"), runs_dir]),
        "list": (lambda: [one(["recipes", "clusters", "pipelines", "runs", "x", ""])], [runs_dir, lambda: ["--json"]]),
        "show": (lambda: [recipe()], [sets, sets, cluster, lambda: ["--json"]]),
        "export": (
            lambda: [trained(), "--to", one([*FOLDERS, "out"])],
            [number("--step"), value("--weights"), value("--role"), value("--dtype"), cluster],
        ),
        "sample": (
            lambda: [one([trained(), *(["file", "folder.yaml", "shut"] if programs else [])]), "--prompt", one(VALUES)],
            [
                value("--to", FOLDERS),
                value("--prompts", FILES),
                number("--steps"),
                number("--height"),
                number("--fps"),
                value("--solver"),
                cluster,
            ],
        ),
        "fork": (lambda: [run(), "--step", one(NUMBERS), "--name", one(VALUES)], [sets, cluster, runs_dir]),
        "verify": (lambda: [run()], [number("--step"), runs_dir]),
        "prune": (lambda: [run(), "--keep-last", one(NUMBERS)], [number("--keep-every"), runs_dir]),
        "diff": (lambda: [one([run(), recipe()]), one([run(), recipe()])], [cluster, runs_dir]),
        "doctor": (lambda: ["--no-node", "--cluster", one(CLUSTERS[1:])], [number("--wait-s")]),
        "rehearse": (lambda: ["--runs-dir", one(FOLDERS)], [sets, cluster, number("--steps")]),
        "schema": (lambda: [one(["recipe", "cluster", "x", ""])], []),
        "completion": (lambda: [one(["bash", "x", ""])], []),
        "nothing": (list, [sets]),
        "": (list, []),
        "--help": (lambda: [one(VALUES)], []),
    }
    command = one(list(few))
    needed, options = few[command]
    chosen = draw.sample(options, draw.randint(0, min(3, len(options))))
    return [command, *needed(), *(word for option in sorted(chosen, key=lambda option: "--" in option()[:1]) for word in option())]


def called(words: list[str]) -> tuple[int, str]:
    """Call a command line in this process; its exit code, and all that it and its children print."""
    from fvlaunch.cli import app

    with tempfile.TemporaryFile() as kept:
        saved = os.dup(1), os.dup(2)
        streams = sys.stdout, sys.stderr
        for target in (1, 2):
            os.dup2(kept.fileno(), target)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(target), "w") for target in (1, 2))
        signal.alarm(SECONDS)
        try:
            code = app.run(words)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
            code = 99
        finally:
            signal.alarm(0)
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.close()
            sys.stdout, sys.stderr = streams
            for target, old in zip((1, 2), saved, strict=True):
                os.dup2(old, target)
                os.close(old)
        kept.seek(0)
        return code, kept.read().decode(errors="replace")


def wrong(words: list[str]) -> str:
    """Return what is wrong with how a command line ends; empty where nothing is."""
    code, text = called(words)
    bad = code not in GOOD or "Traceback" in text or "should not have happened" in text or (code == 1 and not text.strip())
    return f"{words!r} -> {code}\n{text[-1500:]}\n" if bad else ""


def try_all(count: int, seed: int, folder: Path, *, programs: bool) -> list[str]:
    """Make the place in a new folder, try that many command lines in it, and return what is wrong with any."""
    make(folder)
    os.chdir(folder)
    os.environ.update({"XDG_STATE_HOME": str(folder / "home/state"), "XDG_CONFIG_HOME": str(folder / "home/config")})
    found: list[str] = []

    @hypothesis.seed(seed)
    @settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**64))
    def trial(number: int) -> None:
        found.append(wrong(command_line(random.Random(number), programs=programs)))

    trial()
    for closed in ("shut", "runs/shut"):
        (folder / closed).chmod(0o700)
    return [one for one in found if one]


def in_a_process(count: int, seed: int, folder: Path, *, programs: bool = False, timeout_s: float = 1200) -> str:
    """Try command lines in a process that has no rights over others' files; what is wrong with any of them."""
    rights = NO_RIGHTS if os.geteuid() == 0 else []
    argv = [
        *rights,
        sys.executable,
        "-m",
        "tests.support.hostile",
        str(count),
        str(seed),
        str(folder),
        *(["--programs"] if programs else []),
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("FVLAUNCH_", "SBATCH_", "SLURM_"))}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


if __name__ == "__main__":
    sys.stdout.write("".join(try_all(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), programs="--programs" in sys.argv)))
