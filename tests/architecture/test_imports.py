"""Who may import whom, read from the files; and what a quick command may load, seen in a process of its own."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fvlaunch.cli import app
from tests.support.paths import ROOT

FILES = {package: sorted((ROOT / package).rglob("*.py")) for package in ("fvlaunch", "trainers")}
HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "av", "tensorboard")


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(full name of what is imported, line), relative imports resolved; of anywhere in the file, not only its top."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def inside(name: str, *modules: str) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def offences(package: str, forbidden: tuple[str, ...], allowed: tuple[str, ...] = ()) -> list[str]:
    """file:line of every import of a forbidden module that is not in an allowed one."""
    return [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in FILES[package]
        for name, line in imports(path)
        if inside(name, *forbidden) and not inside(name, *allowed)
    ]


def test_the_files_are_there_to_be_read() -> None:
    assert len(FILES["fvlaunch"]) > 20 and len(FILES["trainers"]) > 20
    assert "trainers.control.EXIT_SAVED" in {name for name, _ in imports(ROOT / "fvlaunch/agent/failure_attribution.py")}
    assert "fvlaunch.runs.directory.Run" in {name for name, _ in imports(ROOT / "fvlaunch/agent/main.py")}


def test_the_launcher_never_imports_what_takes_seconds_to_load() -> None:
    assert offences("fvlaunch", HEAVY) == []


def test_the_launcher_knows_of_the_trainers_only_their_configuration_and_exit_codes() -> None:
    assert offences("fvlaunch", ("trainers",), ("trainers.config", "trainers.control")) == []
    codes = [line for line in offences("fvlaunch", ("trainers.control",)) if ".EXIT_" not in line]
    assert codes == []


def test_the_configuration_of_the_trainers_loads_without_what_is_heavy() -> None:
    found = [line for line in offences("trainers", HEAVY) if line.startswith(("trainers/config/", "trainers/control.py"))]
    assert found == []


def test_the_trainers_never_import_the_launcher() -> None:
    assert offences("trainers", ("fvlaunch", "submitit")) == []


@pytest.mark.parametrize("word", ["SLURM", "Slurm", "submitit", "fvlaunch"])
def test_the_trainers_never_mention_what_launches_them(word: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in FILES["trainers"]
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if word in line
    ]
    assert found == []


def test_only_the_schedulers_that_are_made_with_submitit_import_it() -> None:
    rooms = ("fvlaunch/schedulers/slurm/", "fvlaunch/schedulers/local/")
    assert [line for line in offences("fvlaunch", ("submitit",)) if not line.startswith(rooms)] == []


def test_nobody_but_a_scheduler_compares_the_name_of_one() -> None:
    """What differs between schedulers is asked of the one that is meant: a fact of its own, not its name."""
    found = []
    for path in FILES["fvlaunch"]:
        if path.is_relative_to(ROOT / "fvlaunch/schedulers"):
            continue
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            parts = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            literal = any(isinstance(part, ast.Constant | ast.Tuple | ast.List | ast.Set) for part in parts)
            by_value = literal or any(isinstance(op, ast.Eq | ast.NotEq) for op in getattr(node, "ops", ()))
            if by_value and any(isinstance(part, ast.Attribute | ast.Name) and ast.unparse(part).endswith("executor") for part in parts):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    assert found == []


@pytest.mark.parametrize("words", [["--help"], ["submit", "--help"], ["status"], ["status", "--json"]], ids=" ".join)
def test_quick_commands_load_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    program = "import sys; from fvlaunch.cli.app import run; code = run(sys.argv[1:]); print(*sys.modules, file=sys.stderr); sys.exit(code)"
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "XDG_STATE_HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    argv = [sys.executable, "-c", program, *words]
    done = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert "fvlaunch" in loaded and not loaded & {*HEAVY, "submitit", "jinja2", "numpy", "pyarrow", "yaml", "trainers"}


def test_a_command_alone_is_what_it_is_among_all(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("submit", "list", "doctor"):
        assert app.run([name, "--help"]) == 0
        alone = capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(app, "_needed", lambda words: app.app)
            assert app.run([name, "--help"]) == 0
        assert alone == capsys.readouterr() and alone.out


def test_a_module_that_is_left_out_is_the_real_one_afterwards() -> None:
    """In a process of its own: here asyncio has long been imported."""
    code = (
        "import sys; from fvlaunch.schedulers.stub_modules import without\n"
        "with without('asyncio'):\n"
        "    from submitit import SlurmExecutor\n"
        "assert not [name for name in sys.modules if name.startswith('asyncio')]\n"
        "import asyncio\n"
        "async def one(): return 1\n"
        "assert asyncio.run(one()) == 1\n"
        "with without('asyncio'):\n"
        "    assert sys.modules['asyncio'] is asyncio\n"
        "assert sys.modules['asyncio'] is asyncio\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
