"""The training algorithms: one file a method, named as its configuration in trainers/config/methods; and finding a method by its name.

May import: optim, models, data, diffusion, distributed, config.
Must not know: the loop, checkpoints, or other methods than the one it extends.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

from ..errors import UserError
from ..models import only_subclass
from .base import TrainingMethod


def method_class(kind: str) -> type[TrainingMethod]:
    """For a name: the TrainingMethod that the module of that name defines. For ./file.py:Class: that class of the user's file."""
    if ":" in kind:
        return _from_file(*kind.rsplit(":", 1))
    module = importlib.import_module(f"{__name__}.{kind.replace('-', '_')}")
    return only_subclass(module, TrainingMethod)


def _from_file(path: str, name: str) -> type[TrainingMethod]:
    spec = importlib.util.spec_from_file_location(f"own_method_{Path(path).stem}", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise UserError(f"method.kind: there is no Python file {path}", "write it as ./file.py:ClassName, relative to where the run starts")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, TrainingMethod)):
        raise UserError(
            f"method.kind: {path} has no class {name} that is a TrainingMethod", "from trainers.methods.base import TrainingMethod"
        )
    return found
