"""Owns which pages have generated parts, and what renders each."""

from __future__ import annotations

from tests.support.pages import commands, keys, presets, rooms, sbatch_options
from tests.support.pages.page import Page

PAGES = (
    Page("trainers/README.md", {"rooms": lambda: rooms.rendered("trainers")}),
    Page("fvlaunch/README.md", {"rooms": lambda: rooms.rendered("fvlaunch"), "help": commands.rendered}),
    Page(
        "templates/README.md",
        {
            "recipes": presets.recipes,
            "pipelines": presets.pipelines,
            "keys of recipes": lambda: keys.rendered("recipe"),
            "keys of pipelines": lambda: keys.rendered("pipeline"),
        },
    ),
    Page(
        "clusters/README.md",
        {"profiles": presets.profiles, "keys of profiles": lambda: keys.rendered("cluster"), "sbatch options": sbatch_options.rendered},
    ),
)
