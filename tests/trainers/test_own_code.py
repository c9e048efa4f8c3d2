"""Promises about classes in a user's own Python file: how they are found, what their blocks may hold, and what every mistake says."""

from __future__ import annotations

import copy
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.trainers.trainer_ranks import tiny
from trainers.config import TrainConfig, check
from trainers.config.discovery import config_class
from trainers.errors import UserError
from trainers.methods import method_class
from trainers.methods.base import TrainingMethod
from trainers.methods.finetune import FineTuneMethod
from trainers.models import model_class
from trainers.models.base import OneNetwork
from trainers.models.wan import Wan
from trainers.own_code import load_class, with_built_in_sections, with_own_sections

PLAIN = "from trainers.methods.finetune import FineTuneMethod\nclass Plain(FineTuneMethod):\n    pass\n"
FILE = """
from pydantic import PositiveFloat
from trainers.config.methods import finetune
from trainers.config.models.base import ModelConfig
from trainers.methods.base import TrainingMethod
from trainers.methods.dmd2 import DMD2Method
from trainers.methods.finetune import FineTuneMethod
from trainers.models.base import OneNetwork
from trainers.models.wan import Wan


class Described(FineTuneMethod):
    class Config(finetune.Config):
        delta: PositiveFloat = 1.0
        name: str


class Plain(FineTuneMethod):
    pass


class Distilling(DMD2Method):
    pass


class Unfinished(TrainingMethod):
    def get_optimizers(self, iteration):
        return []


class Foreign(FineTuneMethod):
    class Config(ModelConfig):
        pass


class Family(OneNetwork):
    class Config(ModelConfig):
        width: int = 8

    build = blocks = restore_buffers = load_weights = predict_velocity = None


class MyWan(Wan):
    pass


class Nothing:
    pass


NUMBER = 3
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(FILE)
    return str(tmp_path / "mine.py")


def block(tmp_path: Path, **changes: Any) -> TrainConfig:
    return TrainConfig.model_validate(tiny(tmp_path, **copy.deepcopy(changes)))


def refused(action: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        action()
    return caught.value


@pytest.mark.parametrize("key", ["method.kind", "models.student.family"])
def test_a_missing_file_and_a_missing_class_are_told_with_the_key(mine: str, tmp_path: Path, key: str) -> None:
    gone = refused(lambda: load_class(f"{tmp_path}/gone.py:Plain", FineTuneMethod, key))
    assert gone.message == f"{key}: there is no Python file {tmp_path}/gone.py"
    assert "./file.py:ClassName" in gone.hint
    other = refused(lambda: load_class(f"{mine}:Other", FineTuneMethod, key))
    assert other.message == f"{key}: {mine} has no class Other"
    assert other.hint.startswith("its classes: Described, Plain")
    assert "has no class NUMBER" in refused(lambda: load_class(f"{mine}:NUMBER", FineTuneMethod, key)).message


def test_a_class_that_is_no_method_or_family_is_told_what_to_derive_from(mine: str) -> None:
    method = refused(lambda: method_class(f"{mine}:Nothing"))
    assert (method.message, method.hint) == (
        f"method.kind: the class Nothing in {mine} is no TrainingMethod",
        "from trainers.methods.base import TrainingMethod, then class Nothing(TrainingMethod)",
    )
    assert "is no ModelBase" in refused(lambda: model_class(f"{mine}:Plain")).message


def test_a_class_that_leaves_something_out_is_told_what(mine: str) -> None:
    error = refused(lambda: method_class(f"{mine}:Unfinished"))
    assert error.message.endswith("does not define get_grad_clip_targets, get_lr_schedulers, single_train_step")
    assert "trainers.methods.base" in error.hint


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("import math\n\nclass Mine(:\n    pass\n", 3, "SyntaxError: invalid syntax"),
        ("import math\nimport no_such_module\n", 2, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def start():\n    return 1 / 0\n\n\nstart()\n", 2, "ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_cannot_be_imported_is_told_with_its_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    for _ in range(2):  # nothing is left of the first try
        error = refused(lambda: method_class(f"{path}:Mine"))
        assert error.message == f"method.kind: {path}:{line} fails when it is imported: {said}"


def test_classes_of_one_file_know_each_other_and_files_of_one_name_do_not_mix(mine: str, tmp_path: Path) -> None:
    assert method_class(f"{mine}:Plain").__module__ == model_class(f"{mine}:MyWan").__module__  # type: ignore[attr-defined]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.py").write_text(FILE.replace("NUMBER = 3", "class Added(Plain):\n    pass"))
    assert method_class(f"{tmp_path}/other/mine.py:Added").__name__ == "Added"
    assert "has no class Added" in refused(lambda: method_class(f"{mine}:Added")).message


def test_a_relative_path_is_below_the_working_directory(mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert issubclass(method_class("./mine.py:Plain"), TrainingMethod)
    found = with_own_sections(block(tmp_path, method={"kind": "./mine.py:Plain"}))
    assert found.method.kind == f"{tmp_path}/mine.py:Plain"
    elsewhere = with_own_sections(block(tmp_path, method={"kind": "./mine.py:Plain"}), tmp_path)
    assert elsewhere.method.kind == found.method.kind


def test_a_class_with_a_config_has_its_defaults_and_its_checks(mine: str, tmp_path: Path) -> None:
    found: Any = with_own_sections(block(tmp_path, method={"kind": f"{mine}:Described", "name": "a", "delta": 2})).method
    assert (found.delta, found.name, found.weighting_scheme, found.kind) == (2.0, "a", "uniform", f"{mine}:Described")
    assert isinstance(found, config_class("trainers.config.methods", "finetune"))
    wrong = {"kind": f"{mine}:Described", "delta": -1, "wieghting_scheme": "mode"}
    error = refused(lambda: with_own_sections(block(tmp_path, method=wrong)))
    for part in ("method.name: Field required", "method.delta: Input should be greater than 0", "method.wieghting_scheme: Extra inputs"):
        assert part in error.message
    assert "delta, name" in error.hint and "weighting_scheme" in error.hint


def test_a_class_without_a_config_has_the_keys_of_what_it_is_derived_from_and_any_of_its_own(mine: str, tmp_path: Path) -> None:
    found: Any = with_own_sections(block(tmp_path, method={"kind": f"{mine}:Plain", "logit_std": 2, "mine": [1]})).method
    assert (found.weighting_scheme, found.logit_std, found.mine) == ("uniform", 2.0, [1])
    error = refused(lambda: with_own_sections(block(tmp_path, method={"kind": f"{mine}:Plain", "logit_std": "wide"})))
    assert "method.logit_std: Input should be a valid number" in error.message
    distilling = {"kind": f"{mine}:Distilling", "denoising_steps": [1000, 500]}
    assert with_own_sections(block(tmp_path, method=distilling)).method.needs == "text"


def test_the_config_of_another_kind_is_refused(mine: str, tmp_path: Path) -> None:
    error = refused(lambda: with_own_sections(block(tmp_path, method={"kind": f"{mine}:Foreign"})))
    assert error.message == f"method.kind: Foreign.Config in {mine} is no MethodConfig"


def test_what_was_completed_is_plain_data_that_reads_back(mine: str, tmp_path: Path) -> None:
    models = {"student": {"family": f"{mine}:Family", "width": 16}}
    found = with_own_sections(block(tmp_path, method={"kind": f"{mine}:Described", "name": "a"}, models=models))
    again = with_own_sections(TrainConfig.model_validate(found.resolved()))
    assert again.resolved() == found.resolved()
    assert found.resolved()["models"]["student"]["width"] == 16


def test_a_family_is_described_by_its_class_and_needs_no_architecture(mine: str, tmp_path: Path) -> None:
    written = block(tmp_path, models={"student": {"family": f"{mine}:Family", "width": "16"}})
    assert check(written, 1) == []
    found: Any = with_own_sections(written).models["student"]
    assert (found.width, found.lora, found.compile) == (16, None, False)
    wrong = {"family": f"{mine}:Family", "width": "wide", "depth": 3}
    error = refused(lambda: with_own_sections(block(tmp_path, models={"student": wrong})))
    for part in ("models.student.width: Input", "models.student.depth: Extra"):
        assert part in error.message
    with pytest.raises(ValueError, match="compile"):  # what all families know is checked without the file
        block(tmp_path, models={"student": {"family": f"{mine}:Family", "compile": 7}})
    assert issubclass(model_class(f"{mine}:Family"), OneNetwork)  # type: ignore[arg-type]


def test_a_family_derived_from_wan_has_the_keys_of_wan(mine: str, tmp_path: Path) -> None:
    models = {"student": {"family": f"{mine}:MyWan", "architecture": {"num_layers": 1}, "extra": 1}}
    found: Any = with_own_sections(block(tmp_path, models=models)).models["student"]
    assert found.architecture.num_layers == 1 and found.attention is None and found.extra == 1
    assert model_class(f"{mine}:MyWan").__mro__[1] is Wan  # type: ignore[attr-defined]
    misspelt = {"student": {"family": f"{mine}:MyWan", "architecture": {"num_layer": 1}}}
    assert "architecture.num_layer: Extra" in refused(lambda: with_own_sections(block(tmp_path, models=misspelt))).message


def test_a_block_of_the_built_in_class_is_left_for_those_without_the_file(mine: str, tmp_path: Path) -> None:
    method = {"kind": f"{mine}:Distilling", "denoising_steps": [1000, 500], "mine": 1}
    models = {"student": {"family": f"{mine}:MyWan", "architecture": {"num_layers": 1}}, "critic": {"family": f"{mine}:Family"}}
    found: Any = with_built_in_sections(with_own_sections(block(tmp_path, method=method, models=models)))
    assert found.method.few_steps(3.0) == [1000, 500] and found.method.kind == "dmd2" and not hasattr(found.method, "mine")
    assert found.models["student"].family == "wan" and found.models["student"].architecture.num_layers == 1
    assert found.models["critic"].family == f"{mine}:Family"  # derived from none
    plain = block(tmp_path)
    assert with_built_in_sections(plain).resolved() == plain.resolved()


def test_what_a_built_in_method_says_of_its_roles_holds_for_a_class_with_a_config(mine: str, tmp_path: Path) -> None:
    config = block(tmp_path, method={"kind": f"{mine}:Described", "name": "a"})
    more = config.model_copy(update={"models": {**config.models, "critic": config.models["student"]}})
    assert check(more, 1) == []  # nothing but the class itself can tell
    assert "no role 'critic'" in check(with_own_sections(more), 1)[0].message
    free = more.model_copy(update={"method": block(tmp_path, method={"kind": f"{mine}:Plain"}).method})
    assert check(with_own_sections(free), 1) == []
    assert method_class("finetune") is FineTuneMethod


def test_a_file_has_what_lies_beside_it_and_nothing_else_of_the_folder_is_importable(tmp_path: Path) -> None:
    (tmp_path / "beside_a.py").write_text("from beside_pkg.part import VALUE\nimport signal\nSIGNAL = signal.SIGTERM\n")
    (tmp_path / "beside_pkg").mkdir()
    (tmp_path / "beside_pkg/part.py").write_text("VALUE = 3\n")
    (tmp_path / "signal.py").write_text("raise SystemExit\n")
    (tmp_path / "beside_unused.py").write_text("")
    (tmp_path / "mine.py").write_text(f"import beside_a\n{PLAIN}    value, signal = beside_a.VALUE, beside_a.SIGNAL\n")
    found: Any = load_class(f"{tmp_path}/mine.py:Plain", FineTuneMethod, "method.kind")
    assert (found.value, found.signal) == (3, 15)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("beside_unused")
    assert str(tmp_path) not in sys.path


def test_two_files_that_mean_different_modules_by_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "shared_name.py").write_text(f"WHERE = {folder!r}\n")
        (tmp_path / folder / "mine.py").write_text(f"import shared_name\n{PLAIN}")
    load_class(f"{tmp_path}/one/mine.py:Plain", FineTuneMethod, "method.kind")
    error = refused(lambda: load_class(f"{tmp_path}/two/mine.py:Plain", FineTuneMethod, "family"))
    assert f"{tmp_path}/two/mine.py imports shared_name from {tmp_path}/two/shared_name.py" in error.message and "rename" in error.hint


@pytest.mark.parametrize("first", ["net_of_mine", "mine"])
def test_a_class_that_two_own_files_share_exists_once(tmp_path: Path, first: str) -> None:
    (tmp_path / "net_of_mine.py").write_text(PLAIN)
    (tmp_path / "mine.py").write_text("import net_of_mine\nclass Mine(net_of_mine.Plain):\n    pass\n")
    order = ["mine.py:Mine", "net_of_mine.py:Plain"]
    made = {name: load_class(f"{tmp_path}/{name}", FineTuneMethod, "x") for name in (order if first == "mine" else reversed(order))}
    sys.modules.pop("net_of_mine")
    assert issubclass(made["mine.py:Mine"], made["net_of_mine.py:Plain"])


def test_what_fails_in_a_file_beside_it_is_told_with_that_files_line(tmp_path: Path) -> None:
    (tmp_path / "beside_broken.py").write_text("\n\n1 / 0\n")
    (tmp_path / "mine.py").write_text(f"import beside_broken\n{PLAIN}")
    error = refused(lambda: load_class(f"{tmp_path}/mine.py:Plain", FineTuneMethod, "method.kind"))
    assert f"{tmp_path}/beside_broken.py:3 fails when it is imported: ZeroDivisionError" in error.message
