"""Owns the entry point of the command `fvlaunch`: it runs the package that was installed with it.

Another package called fvlaunch may come first on the module path, since PYTHONPATH does. Must do nothing else.
"""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def main() -> None:
    """Run the command line of the package beside this file."""
    folder = Path(__file__).resolve().parent / "fvlaunch"
    spec = spec_from_file_location("fvlaunch", folder / "__init__.py", submodule_search_locations=[str(folder)])
    if "fvlaunch" not in sys.modules and spec is not None and spec.loader is not None:
        sys.modules["fvlaunch"] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules["fvlaunch"])
    from fvlaunch.cli.app import main as command_line

    command_line()
