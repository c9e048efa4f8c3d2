"""The figures that are kept: of presets as they are today, and the page shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gpu import job, results, table

AGAIN = "simulate it again: python -m tests.gpu --keep {}"
STORED = results.stored()


def test_figures_are_of_presets_in_their_order() -> None:
    assert STORED and list(STORED) == [preset for preset in job.PRESETS if preset in STORED]


@pytest.mark.parametrize("preset", job.PRESETS)
def test_the_figures_are_of_the_recipe_as_it_is(preset: str, tmp_path: Path) -> None:
    if preset not in STORED:
        pytest.skip(f"{preset} has no figures yet: python -m tests.gpu --keep {preset}")
    today, figures = job.make(preset, tmp_path), STORED[preset]
    assert (figures.ranks, figures.digests["config"]) == (today.ranks, today.digests["config"]), AGAIN.format(preset)


def test_the_host_waits_for_the_device_nowhere_but_where_it_is_declared() -> None:
    assert {preset: figures.undeclared for preset, figures in STORED.items() if figures.undeclared} == {}


def test_the_page_shows_what_is_stored() -> None:
    assert table.of_many(STORED.values()) in results.PAGE.read_text(), AGAIN.format("PRESET")
