"""The preprocess block: its kind decides what may be written in it, and it parses back to itself."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from trainers.config.programs.preprocess import Config, RewriteConfig, TextConfig, VideosConfig

BLOCK: TypeAdapter[Any] = TypeAdapter(Config)
PLACES = {"source": "in", "output": "out"}


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        ({"kind": "videos", "model": "tiny-wan", "holdout": 0.1}, VideosConfig),
        ({"kind": "text", "model": "tiny-wan", "column": "words"}, TextConfig),
        ({"kind": "rewrite"}, RewriteConfig),
    ],
)
def test_a_block_parses_by_its_kind_and_back(block: dict[str, Any], kind: type) -> None:
    config = BLOCK.validate_python({**PLACES, **block})
    assert type(config) is kind
    assert BLOCK.validate_python(config.resolved()) == config


def test_the_defaults_are_the_published_size() -> None:
    config = BLOCK.validate_python({**PLACES, "kind": "videos", "model": "m"})
    assert (config.num_frames, config.height, config.width, config.fps) == (77, 448, 832, 16.0)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"kind": "clips"}, "does not match any of the expected tags"),
        ({"kind": "videos"}, "model\n  Field required"),
        ({"kind": "videos", "model": "m", "dtype": "float8"}, "'fp32' or 'bf16'"),
        ({"kind": "videos", "model": "m", "holdout": 1}, "less than 1"),
        ({"kind": "text", "model": "m", "num_frames": 5}, "Extra inputs are not permitted"),
    ],
)
def test_what_does_not_belong_is_refused(block: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        BLOCK.validate_python({**PLACES, **block})
