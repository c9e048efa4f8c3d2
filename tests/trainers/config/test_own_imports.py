"""What a user's own file imports from beside it is found by reading, and is only what no one else has the name of."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trainers.config.own_imports import MAX_FILES, digest, files_of, imports_of, not_to_be_copied


@pytest.fixture
def write(tmp_path: Path) -> Path:
    for name in ("helper", "other", "third", "unused"):
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "pkg/sub").mkdir(parents=True)
    for name in ("pkg/__init__", "pkg/a", "pkg/sub/b"):
        (tmp_path / f"{name}.py").write_text("from . import a\n")
    (tmp_path / "pkg/table.json").write_text("{}")
    return tmp_path


def names(folder: Path, text: str) -> list[str]:
    (folder / "mine.py").write_text(text)
    return sorted(imports_of(folder / "mine.py").modules)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import helper\n", ["helper"]),
        ("import helper as h, other\n", ["helper", "other"]),
        ("from helper import x\nfrom pkg.sub import b\n", ["helper", "pkg"]),
        ("def f():\n    import helper\n", ["helper"]),
        ("try:\n    from .helper import x\nexcept ImportError:\n    from helper import x\n", ["helper"]),
        ("import importlib\nimportlib.import_module('helper')\n__import__('pkg.a')\n", ["helper", "pkg"]),
        ("import torch, numpy\nimport not_there\n", []),
        ("text = 'import helper'\n", []),
    ],
)
def test_an_import_is_found_wherever_it_stands(write: Path, text: str, found: list[str]) -> None:
    assert names(write, text) == found


def test_imports_of_imports_are_found_and_circles_end(write: Path) -> None:
    (write / "helper.py").write_text("import other\n")
    (write / "other.py").write_text("import mine, pkg\n")
    (write / "pkg/a.py").write_text("import third\n")
    assert names(write, "import helper\n") == ["helper", "mine", "other", "pkg", "third"]


@pytest.mark.parametrize("name", ["signal", "random", "types", "json", "yaml", "torch", "trainers", "fvlaunch", "pytest"])
def test_what_has_the_name_of_something_else_is_passed_over_and_told(write: Path, name: str) -> None:
    (write / f"{name}.py").write_text("raise SystemExit\n")
    (write / "mine.py").write_text(f"\nimport {name}\nimport helper\n")
    found = imports_of(write / "mine.py")
    assert list(found.modules) == ["helper"]
    assert found.passed_over[name].startswith(f"{write}/mine.py:2 imports {name}: ") and f"not {write}/{name}.py" in found.passed_over[name]


def test_a_folder_without_code_of_that_name_is_not_meant(write: Path) -> None:
    (write / "wandb/run-1").mkdir(parents=True)  # wandb leaves its files in the working directory
    (write / "wandb/run-1/train.py").write_text("")
    (write / "parts").mkdir()
    (write / "parts/net.py").write_text("")
    assert names(write, "import wandb_of_nobody, parts.net\n") == ["parts"]
    assert names(write, "import parts\n") == []


def test_the_folder_of_the_file_on_pythonpath_is_still_beside_it(write: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(write))
    assert names(write, "import helper\n") == ["helper"]
    assert "mine" not in sys.modules and "helper" not in sys.modules


def test_a_symlink_is_followed_to_what_lies_beside_its_target_and_beside_itself(write: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links/linked.py").symlink_to(write / "mine.py")
    (tmp_path / "links/near.py").write_text("")
    (write / "mine.py").write_text("import helper, near\n")
    assert sorted(imports_of(tmp_path / "links/linked.py").modules) == ["helper", "near"]


@pytest.mark.parametrize(
    ("helper", "said"),
    [
        ("def f(:\n", "helper.py:1 is not Python: invalid syntax"),
        ("\nfrom .other import x\n", "helper.py:2 has a relative import, and is in no package"),
        ("\0", "helper.py:1 is not Python"),
    ],
)
def test_what_is_wrong_in_a_file_beside_it_is_told_with_its_line(write: Path, helper: str, said: str) -> None:
    (write / "helper.py").write_text(helper)
    (write / "mine.py").write_text("import helper\n")
    [(message, _)] = imports_of(write / "mine.py").problems
    assert message.startswith(f"{write}/{said}")


def test_a_package_is_all_of_its_folder_but_what_is_compiled_or_hidden(write: Path) -> None:
    for name in ("pkg/.git/x", "pkg/__pycache__/a.pyc", "pkg/.hidden"):
        (write / name).parent.mkdir(exist_ok=True)
        (write / name).write_text("")
    (write / "pkg/sub/loop").symlink_to(write / "pkg")
    found = [str(path.relative_to(write / "pkg")) for path in files_of(write / "pkg")]
    assert found == ["__init__.py", "a.py", "table.json", "sub/b.py"]
    before = digest(write / "pkg")
    (write / "pkg/table.json").write_text("[]")
    assert digest(write / "pkg") != before


def test_a_package_with_data_in_it_is_not_to_be_copied(write: Path) -> None:
    assert not_to_be_copied([write / "pkg", write / "helper.py"]) is None
    for number in range(MAX_FILES):
        (write / f"pkg/sub/{number}").touch()
    assert str(write / "pkg") in (not_to_be_copied([write / "helper.py", write / "pkg"]) or "")
