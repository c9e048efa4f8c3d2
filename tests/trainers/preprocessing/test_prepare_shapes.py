"""Data made on first use: whole or not there, once, whoever else is making it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from trainers.config.data import DataConfig, ShapesConfig
from trainers.data.dataset import ParquetDataset
from trainers.data.prompt_embeddings import prompts as stored_prompts
from trainers.errors import UserError
from trainers.models.codecs import shapes
from trainers.preprocessing import prepare_shapes


def config(path: Path, **changes: Any) -> DataConfig:
    mean, std = shapes.latent_statistics()
    sizes = {"num_frames": 5, "height": 8, "width": 8, "vae_stride": (1, 2, 2), "text_len": 4, "global_batch_size": 4}
    made = {"prepare": ShapesConfig(repeats=1, upscale=2), "latents_mean": mean, "latents_std": std}
    return DataConfig.model_validate({"path": str(path), **sizes, **made, **changes})


def quiet(_what: str, _count: int) -> None:
    return None


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer modes, where only what happens to the folder matters."""
    monkeypatch.setattr(shapes, "TRAINING", shapes.TRAINING[:5])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataConfig, list[tuple[str, int]]]:
    reports: list[tuple[str, int]] = []
    wanted = config(tmp_path_factory.mktemp("made") / "below" / "shapes")
    prepare_shapes.ensure(wanted, report=lambda *report: reports.append(report))
    return wanted, reports


def test_the_data_is_the_training_modes(made: tuple[DataConfig, Any]) -> None:
    dataset = ParquetDataset(made[0], seed=0)
    latents = shapes.templates()
    templates = {tuple(z.flatten().tolist()): i for i, z in enumerate(latents)}
    items = [dataset[0, i] for i in range(len(dataset))]
    modes = [templates[tuple(item["latents"].round().flatten().tolist())] for item in items]
    assert sorted(modes) == list(shapes.TRAINING)
    assert [item["caption"] for item in items] == [shapes.MODES[i].caption for i in modes]
    assert max((item["latents"] - latents[i]).abs().max() for item, i in zip(items, modes, strict=True)) < 0.02


def test_the_clips_stay_for_a_person_to_look_at(made: tuple[DataConfig, Any]) -> None:
    folder = Path(made[0].path)
    assert len(list((folder / "videos").glob("*.mp4"))) == len(json.loads((folder / "videos2caption.json").read_text())) == 60
    assert [p.name for p in folder.parent.iterdir()] == ["shapes"]  # nothing temporary is left


def test_prompts_stand_beside_the_samples(made: tuple[DataConfig, Any]) -> None:
    found = stored_prompts(made[0])
    assert found is not None and found.encoder == "ShapesCodec"
    assert len(found.validation) == len({mode.caption for mode in shapes.MODES}) == 4
    assert torch.equal(found.embeddings["validation.000"], shapes.ShapesCodec().encode_text(found.texts["validation.000"]))
    assert found.texts["negative"] == ""


def test_progress_is_told_clip_by_clip(made: tuple[DataConfig, list[tuple[str, int]]]) -> None:
    assert made[1] == [(what, n) for what in ("writing clips", "encoding clips") for n in range(1, 61)]


def test_what_is_there_is_left_alone(made: tuple[DataConfig, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_shapes, "_make", lambda *_: pytest.fail("made again"))
    prepare_shapes.ensure(made[0], report=quiet)


def test_other_settings_are_refused_by_name(made: tuple[DataConfig, Any]) -> None:
    other = made[0].model_copy(update={"prepare": ShapesConfig(repeats=3, upscale=2)})
    with pytest.raises(UserError, match=r"other settings: repeats is 1, this run asks for 3\n"):
        prepare_shapes.ensure(other, report=quiet)


def test_without_prepare_nothing_is_made(tmp_path: Path) -> None:
    prepare_shapes.ensure(config(tmp_path / "data", prepare=None), report=quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_somebody_else_filled_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.parquet").touch()
    with pytest.raises(UserError, match=r"was not made by data.prepare\n.*prepare: null"):
        prepare_shapes.ensure(config(tmp_path), report=quiet)


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="not a folder"):
            prepare_shapes.ensure(config(path), report=quiet)


def test_an_interrupted_preparation_leaves_nothing(tmp_path: Path, few: None) -> None:
    def interrupt(what: str, count: int) -> None:
        if (what, count) == ("encoding clips", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_shapes.ensure(config(tmp_path / "data"), report=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_two_runs_that_prepare_at_once_share_one_result(tmp_path: Path, few: None) -> None:
    both_are_at_it = threading.Barrier(2, timeout=240)
    failures: list[BaseException] = []

    def wait_once(what: str, count: int) -> None:
        if (what, count) == ("writing clips", 1):
            both_are_at_it.wait()

    def run() -> None:
        try:
            prepare_shapes.ensure(config(tmp_path / "data"), report=wait_once)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
    assert len(ParquetDataset(config(tmp_path / "data"), seed=0)) == 5


def test_an_empty_folder_at_the_place_is_used(tmp_path: Path, few: None) -> None:
    prepare_shapes.ensure(config(tmp_path), report=quiet)
    assert (tmp_path / prepare_shapes.MARKER).is_file()
