"""Owns a Debian 13 system in a folder: how it is made, and how a command of this checkout runs in it.

Must not change the machine around it: what is mounted is seen by the command alone and gone with it. Needs root and debootstrap.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
RELEASE = "trixie"
_MIRROR = "http://deb.debian.org/debian"
_SLURM = ("slurm-wlm", "munge", "slurmdbd", "mariadb-server-core", "mariadb-client-core")
_TOOLS = ("git", "procps", "ca-certificates")
_LIBRARIES = ("libssl3t64", "libffi8", "libsqlite3-0", "liblzma5", "libbz2-1.0", "libreadline8t64", "zlib1g", "libncursesw6", "libgomp1")
"""What an interpreter that was built on an older Debian is linked to."""
_MADE = ".made"


class CannotBeMade(Exception):
    """A system that cannot be made or entered on this machine; the argument says why."""


def make(root: Path) -> None:
    """Make the system in `root`, with Slurm; one that is there already is kept. Raise CannotBeMade where this machine cannot."""
    _check_machine()
    if not (root / _MADE).is_file():
        shutil.rmtree(root, ignore_errors=True)
        _do("debootstrap", "--variant=minbase", RELEASE, root, _MIRROR)
        packages = shlex.join([*_SLURM, *_TOOLS, *_LIBRARIES])
        install = f"apt-get update -qq && apt-get install -y -qq --no-install-recommends {packages}"
        _do("chroot", root, "/usr/bin/env", "DEBIAN_FRONTEND=noninteractive", "bash", "-c", install)
        (root / _MADE).touch()
    for name in ("hosts", "resolv.conf"):  # Slurm looks its own host's name up
        shutil.copy(f"/etc/{name}", root / "etc" / name)


def run(root: Path, argv: Sequence[str]) -> int:
    """Run a command in the system, in this checkout and with this interpreter and its packages; return its exit code."""
    mounts = [f"mkdir -p {_quoted(root, path)} && mount --rbind {shlex.quote(str(path))} {_quoted(root, path)}" for path in _shared()]
    path = os.pathsep.join([f"{sys.prefix}/bin", "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"])
    environment = [f"PATH={path}", "HOME=/root", "LANG=C.UTF-8", "HF_HUB_OFFLINE=1", "FVLAUNCH_REQUIRE_SLURM=1"]
    inside = shlex.join(["bash", "-c", f'cd {shlex.quote(str(CHECKOUT))} && exec "$@"', "_", *argv])
    enter = f"exec chroot {shlex.quote(str(root))} /usr/bin/env -i {shlex.join(environment)} {inside}"
    script = "\n".join(["set -e", *mounts, enter])
    return subprocess.run(["unshare", "--mount", "--propagation", "private", "bash", "-c", script], check=False).returncode


def slurm_version(root: Path) -> str:
    """Return the version of Slurm in the system, as Debian numbers it."""
    return _do("chroot", root, "dpkg-query", "-W", "-f", "${Version}", "slurm-wlm")


def _shared() -> Iterable[Path]:
    """Return what the system sees of this machine: kernel, checkout, interpreter and packages; a folder within another is seen with it."""
    site_packages = {Path(entry).resolve() for entry in sys.path if entry.endswith("site-packages")}
    common = subprocess.run(["git", "rev-parse", "--git-common-dir"], cwd=CHECKOUT, capture_output=True, text=True, check=False).stdout
    history = {(CHECKOUT / common.strip()).resolve()} if common.strip() else set()  # of a worktree it lies elsewhere
    wanted = {CHECKOUT, Path(sys.prefix), Path(sys.base_prefix), *site_packages, *history}
    own = sorted(path for path in wanted if not any(path.is_relative_to(other) for other in wanted - {path}))
    return [Path("/proc"), Path("/sys"), Path("/dev"), *own]


def _quoted(root: Path, path: Path) -> str:
    return shlex.quote(f"{root}{path}")


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise CannotBeMade("a Debian system can be made and entered by root only")
    if missing := [name for name in ("debootstrap", "chroot", "unshare") if shutil.which(name) is None]:
        raise CannotBeMade(f"not installed: {', '.join(missing)} (apt-get install debootstrap)")


def _do(*argv: object) -> str:
    done = subprocess.run([str(part) for part in argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise CannotBeMade(f"{argv[0]} ended with {done.returncode}:\n{done.stdout[-2000:]}")
    return done.stdout
