"""Submits training runs to Slurm or to this machine, and keeps them alive until they are finished. Never imports torch."""

import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location

__version__ = "0.1.0"


class _TrainersBeside:
    """Finds the package `trainers` that lies beside this one: another of that name may come first on the module path, since PYTHONPATH
    does, and so do a user's own site-packages."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        folder = os.path.join(os.path.dirname(os.path.dirname(__file__)), name)  # noqa: PTH118, PTH120  pathlib takes longer than this
        file = os.path.join(folder, "__init__.py")  # noqa: PTH118
        is_ours = name == "trainers" and os.path.isfile(file)  # noqa: PTH113
        return spec_from_file_location(name, file, submodule_search_locations=[folder]) if is_ours else None


sys.meta_path.insert(0, _TrainersBeside)
