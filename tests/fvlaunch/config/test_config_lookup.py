"""Where names are found: layers, explicit paths, listing."""

from __future__ import annotations

from pathlib import Path

import pytest

from fvlaunch.config import lookup
from fvlaunch.errors import NotFound, render


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def _write(path: Path, text: str = "description: x\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_nearest_layer_wins(here: Path) -> None:
    packaged = lookup.find("recipe", "shapes-finetune", here)
    assert packaged.is_relative_to(lookup.packaged())
    user = _write(here.parent / "config/fvlaunch/templates/recipes/shapes-finetune.yaml")
    assert lookup.find("recipe", "shapes-finetune", here) == user
    mine = _write(here / "templates/recipes/shapes-finetune.yaml")
    assert lookup.find("recipe", "shapes-finetune", here) == mine
    assert lookup.candidates("recipe", "shapes-finetune", here) == [mine, user, packaged]


def test_clusters_lie_beside_templates(here: Path) -> None:
    mine = _write(here / "clusters/lab.yml")
    assert lookup.find("cluster", "lab", here) == mine
    assert lookup.find("cluster", "local", here).name == "local.yaml"


def test_a_file_is_taken_as_it_is(here: Path) -> None:
    mine = _write(here / "mine.yaml")
    assert lookup.find("recipe", "mine.yaml", here) == mine
    assert lookup.find("recipe", "./mine.yaml", here) == mine
    assert lookup.find("recipe", str(mine), here) == mine
    with pytest.raises(NotFound, match=r"other\.yaml does not exist"):
        lookup.find("recipe", "other.yaml", here)


def test_an_unknown_name_says_what_was_meant_and_where_it_looked(here: Path) -> None:
    with pytest.raises(NotFound) as caught:
        lookup.find("recipe", "shapes-fintune", here)
    text = render(caught.value)
    assert "did you mean shapes-finetune?" in text and str(here / "templates/recipes") in text and "config/fvlaunch" in text


def test_a_pipeline_is_not_a_recipe_but_shares_its_names(here: Path) -> None:
    _write(here / "templates/pipelines/both.yaml")
    assert lookup.kind_of("both", here) == "pipeline"
    assert lookup.kind_of("shapes-finetune", here) == "recipe"
    with pytest.raises(NotFound, match="is a pipeline"):
        lookup.find("recipe", "both", here)


@pytest.mark.parametrize("name", ["", "../x", "a/../../x", "a b", "-x", "a\nb", ".hidden", "a//b", "$(x)"])
def test_hostile_names_find_nothing(here: Path, name: str) -> None:
    with pytest.raises(NotFound):
        lookup.find("recipe", name, here)


def test_a_link_out_of_the_folder_is_refused(here: Path) -> None:
    outside = _write(here.parent / "outside.yaml")
    (here / "templates/recipes").mkdir(parents=True)
    (here / "templates/recipes/x.yaml").symlink_to(outside)
    with pytest.raises(NotFound, match="leads out of"):
        lookup.find("recipe", "x", here)


def test_listing_has_each_name_once_with_its_layer(here: Path) -> None:
    _write(here / "clusters/local.yaml", "description: >\n  of my\n  own\n")
    _write(here / "clusters/broken.yaml", "a: [\n")
    _write(here / "templates/recipes/base/hidden.yaml")
    found = {entry.name: entry for entry in lookup.listing("cluster", here)}
    assert (found["local"].description, found["local"].layer) == ("of my own", "working directory")
    assert found["example-slurm"].layer == "packaged"
    assert "not YAML" in found["broken"].description
    recipes = [entry.name for entry in lookup.listing("recipe", here)]
    assert "shapes-finetune" in recipes and "shapes" not in recipes and "hidden" not in recipes


def test_listing_from_a_checkout_says_packaged() -> None:
    assert {entry.layer for entry in lookup.listing("recipe", lookup.packaged())} == {"packaged"}
