"""Submits training runs to Slurm or to this machine, and keeps them alive until they are finished. Never imports torch."""

import importlib.util
import os
import sys

__version__ = "0.1.0"


def _load_trainers() -> None:
    """Load the package `trainers` that lies beside this one: another of that name may come first on the module path, since PYTHONPATH
    does, and so do a user's own site-packages."""
    folder = os.path.join(os.path.dirname(os.path.dirname(__file__)), "trainers")  # noqa: PTH118, PTH120  pathlib takes longer than all this
    spec = importlib.util.spec_from_file_location("trainers", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder])  # noqa: PTH118
    if "trainers" not in sys.modules and os.path.isdir(folder) and spec is not None and spec.loader is not None:  # noqa: PTH112
        sys.modules["trainers"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["trainers"])


_load_trainers()
