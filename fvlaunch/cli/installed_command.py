"""Owns the entry point of the command `fvlaunch`: it runs the package that was installed with it. Must do nothing else.

A wheel holds this file beside the packages, as `fvlaunch_command`: another package called fvlaunch may come first on the module path,
since PYTHONPATH does, and this one is found under a name of its own.
"""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def main() -> None:
    """Run the command line of the package beside this file; of an editable installation, which has none there, that of the checkout."""
    file = Path(__file__).resolve().parent / "fvlaunch/__init__.py"
    spec = spec_from_file_location("fvlaunch", file, submodule_search_locations=[str(file.parent)]) if file.is_file() else None
    if "fvlaunch" not in sys.modules and spec is not None and spec.loader is not None:
        sys.modules["fvlaunch"] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules["fvlaunch"])
    from fvlaunch.cli.app import main as command_line

    command_line()
