"""The pages tell the truth: generated parts are fresh, links lead somewhere, examples are taken by the launcher."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main
from pydantic import TypeAdapter

from fvlaunch.cli import app
from fvlaunch.config.compose import compose
from fvlaunch.config.json_schema import KINDS, What, schema
from fvlaunch.planning.pipeline_plan import plan_pipeline
from tests.support.pages import cells, keys, links
from tests.support.pages.blocks import EXAMPLES, blocks, run_shell, write_files
from tests.support.pages.generated import PAGES
from tests.support.pages.page import REFRESH, Page, laid_out_by
from tests.support.paths import ROOT
from trainers.config.train import Model

PARTS = [(page, part) for page in PAGES for part in page.parts]


@pytest.mark.parametrize(("page", "part"), PARTS, ids=[f"{page.name}:{part}" for page, part in PARTS])
def test_generated_parts_are_fresh(page: Page, part: str) -> None:
    told, made = page.current(part), page.rendered(part)
    if laid_out_by(told) != laid_out_by(made):
        pytest.skip(f"laid out by {laid_out_by(told)}, and here is {laid_out_by(made)}")
    assert told == made, f"{page.name} is stale; refresh it with: {REFRESH}"


@pytest.mark.parametrize("page", links.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere_and_no_path_is_of_one_machine(page: Path) -> None:
    assert links.broken_links(page) == []
    assert links.machine_paths(page) == []


# --- the command reference


def test_every_command_and_option_is_in_the_reference_and_says_what_it_is_for() -> None:
    [told] = [page.current(part) for page, part in PARTS if part == "help"]
    for name, command in typer.main.get_command(app.app).commands.items():  # type: ignore[attr-defined]
        [section] = re.findall(rf"^#+ fvlaunch {name}\n(.*?)^```$", told, re.DOTALL | re.MULTILINE)
        assert command.help
        for option in (word for parameter in command.params for word in parameter.opts if word.startswith("-")):
            assert option in section, f"{name} {option}: refresh it with: {REFRESH}"
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name} has no help text"


# --- the tables of keys


@pytest.mark.parametrize("what", KINDS)
def test_every_key_of_the_schema_is_in_a_table_and_has_a_meaning(what: What) -> None:
    tables = keys.tables(what)
    shown = [{row.key.rpartition(".")[2] for row in table.rows} for table in tables]
    for name, definition in schema(what).get("definitions", {}).items():
        if definition.get("properties"):
            assert set(definition["properties"]) in shown, f"{name} has no table"
    without = [row.key for table in tables for row in table.rows if not row.meaning]
    assert without == [], "write the meaning under the field of the configuration class"


def test_a_table_tells_a_block_of_which_kind_it_is_and_what_is_the_default() -> None:
    found = {table.title: {row.key: row for row in table.rows} for table in keys.tables("recipe")}
    kind = found["`train.method` of dmd2"]["train.method.kind"]
    assert (kind.default, kind.allowed) == ("required", "`dmd2`")
    assert found["`train.models.ROLE` of causal-wan"]["train.models.ROLE.family"].default == "`wan`"
    assert TypeAdapter(Model).validate_python({"init_from": "x"}).family == keys.KINDS["family"]


def test_types_bounds_and_units_are_told_in_words() -> None:
    rows = {row.key: row for what in KINDS for table in keys.tables(what) for row in table.rows}
    data = rows["train.data.num_frames"]
    assert (data.type, data.default, data.allowed, data.unit) == ("whole number", "`77`", "≥ 1", "frames")
    assert rows["train.data.path"].type == "text or mapping, each whole number" and rows["train.data.path"].default == "required"
    assert rows["limits.grace_s"].unit == "seconds" and rows["notify.on"].allowed.startswith("not empty; each `failed`")
    unused = [name for name in cells.UNITS if not any(key.endswith(name) and row.unit for key, row in rows.items())]
    assert unused == []


# --- examples


@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_yaml_block_is_a_file_that_the_launcher_takes(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    found = [block for block in blocks(page) if block.language == "yaml"]
    assert found and [block.line for block in found if block.file is None] == [], "the first line of a YAML block names its file"
    write_files(found, tmp_path)
    for block in found:
        _resolve(Path(block.file or ""))


def _resolve(file: Path) -> None:
    if file.parts[0] == "clusters":
        assert compose("shapes-finetune", file.stem).cluster.description
    elif file.parts[1] == "pipelines":
        assert plan_pipeline(file.stem, "local", sets=[], name="two", sbatch={}, runs_dir=None).stages
    else:
        assert compose(file.stem, "local").recipe.description


def test_the_guide_is_short() -> None:
    assert links.too_large(ROOT / "README.md", 15) is None


# --- what looks at pages


def test_a_link_that_leads_nowhere_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(
        "# One `x.y`\n\n[b](b.md), [c](c.md)\n[d](#one-xy) [e](#two) [f](b.md#two-1)\n```\n[g](none.md)\n```\n`[h](no)`\n"
    )
    (tmp_path / "b.md").write_text("# Two\n\n## Two\n\nsee [a](a.md#one-xy) and [elsewhere](https://example.org)\n")
    assert links.broken_links(tmp_path / "b.md", tmp_path) == []
    assert links.broken_links(tmp_path / "a.md", tmp_path) == [
        "a.md:3: c.md: there is no such file",
        "a.md:4: #two: a.md has no heading with this anchor",
    ]


def test_a_path_of_one_machine_is_told_but_not_one_that_a_reader_fills_in(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("/scratch/me/runs ${HOME}/x ~/.config/x\nsee /home/somebody/runs\n")
    assert links.machine_paths(tmp_path / "a.md", tmp_path) == ["a.md:2: /home/somebody/runs"]
    assert links.too_large(tmp_path / "a.md", 1) is None and "allowed" in (links.too_large(tmp_path / "a.md", 0.01) or "")


def test_a_block_knows_its_language_its_needs_and_its_file(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text(
        "<!-- needs: slurm -->\n```bash\nsinfo\n```\n\n1. text\n\n   ```yaml\n   # clusters/x.yaml\n   executor: local\n   ```\n"
    )
    first, second = blocks(page)
    assert first == ("bash", "slurm", "sinfo\n", 3) and first.file is None
    assert second == ("yaml", "", "# clusters/x.yaml\nexecutor: local\n", 9) and second.file == "clusters/x.yaml"
    assert [path.read_text() for path in write_files([second], tmp_path)] == [second.text]


def test_a_shell_block_that_fails_is_told_with_what_it_printed(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("```bash\nfvlaunch --version\nfvlaunch show nothing-of-that-name\n```\n")
    with pytest.raises(AssertionError, match="nothing-of-that-name"):
        run_shell(blocks(tmp_path / "a.md")[0], tmp_path)
