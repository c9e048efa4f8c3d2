"""Owns where ranks keep what they compile: a folder of this machine that nobody else can write in, since what lies there is executed.

Must not know what is compiled.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

from . import own_output


class CompileCaches:
    """The folder of one run's compile caches on this machine: kept from attempt to attempt where its usual place can be trusted."""

    def __init__(self, run_name: str) -> None:
        usual = Path(os.environ.get("TMPDIR") or "/tmp") / f"fvlaunch-{os.getuid()}"
        self._passing: Path | None = None
        if not _is_private(usual):
            self._passing = Path(tempfile.mkdtemp(prefix="fvlaunch-"))
            own_output.say(f"warning: {usual} is not a folder that only you can write in; compile caches are in {self._passing}")
        self._folder = (self._passing or usual) / run_name

    def of_node(self) -> dict[str, str]:
        """Return the variables that say to Triton and Inductor where the caches of all ranks of this node are.

        One for all: ranks compile the same. Both write beside and rename, so that no rank reads what another is still writing.
        """
        folder = self._folder / "node"
        return {"TRITON_CACHE_DIR": str(folder / "triton"), "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}

    def close(self) -> None:
        """Remove what the next attempt would not find again."""
        if self._passing is not None:
            shutil.rmtree(self._passing, ignore_errors=True)


def _is_private(folder: Path) -> bool:
    """Make a folder of mode 0700; say whether it is this user's own and nobody else could ever have written in it.

    Its name can be guessed, so another user of the machine may have made it before, or a link of that name.
    """
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError:
        return False
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        return False
    folder.chmod(0o700)
    return True
