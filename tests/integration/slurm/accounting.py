"""Owns the accounts of a pretended cluster: a MariaDB and a slurmdbd inside its directory. Starts nothing by itself.

Debian: `apt-get install slurmdbd mariadb-server-core mariadb-client-core`; these packages start no service. Nothing in /etc is
read: MariaDB gets --no-defaults, and slurmdbd finds its file beside SLURM_CONF.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.integration.slurm.cluster_files import search_path

PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db", "sacct", "sacctmgr")
INSTALL = "apt-get install slurmdbd mariadb-server-core mariadb-client-core"


def missing_programs() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name, path=search_path()) is None]


def slurm_lines(here: Path, port: int) -> list[str]:
    """What slurm.conf says of the accounts. Without the password line slurmctld ends at once: it looks for munge where a system has it."""
    return [
        "AccountingStorageType=accounting_storage/slurmdbd",
        "AccountingStorageHost=127.0.0.1",
        f"AccountingStoragePort={port}",
        f"AccountingStoragePass={here}/munge.sock",
    ]


def environment(here: Path) -> dict[str, str]:
    return {"MYSQL_UNIX_PORT": str(here / "mysql.sock")}


def write_files(here: Path, port: int, env: Mapping[str, str]) -> None:
    """slurmdbd.conf, and an empty database (4 s)."""
    user = pwd.getpwuid(os.geteuid()).pw_name
    lines = f"""
        AuthType=auth/munge
        AuthInfo=socket={here}/munge.sock
        DbdHost=localhost
        DbdAddr=127.0.0.1
        DbdPort={port}
        SlurmUser={user}
        StorageType=accounting_storage/mysql
        StorageHost=localhost
        StorageUser=root
        StorageLoc=slurm_accounts
        LogFile={here}/log/slurmdbd.log
        PidFile={here}/run/slurmdbd.pid
        DebugLevel=info
    """
    conf = here / "slurmdbd.conf"
    conf.touch(0o600)  # refused where others can read it
    conf.write_text("\n".join(line.strip() for line in lines.splitlines() if line.strip()) + "\n")
    program = str(shutil.which("mariadb-install-db", path=search_path()))
    argv = [program, "--no-defaults", f"--datadir={here}/mysql", f"--user={user}", "--skip-test-db", "--skip-name-resolve"]
    argv += ["--auth-root-authentication-method=normal"]
    subprocess.run(argv, env=dict(env), cwd=here, capture_output=True, stdin=subprocess.DEVNULL, timeout=240, check=True)


def database_argv(here: Path) -> list[str]:
    user = pwd.getpwuid(os.geteuid()).pw_name
    small = [
        "--innodb-buffer-pool-size=64M",
        "--innodb-log-file-size=16M",
        "--innodb-flush-log-at-trx-commit=0",
        "--performance-schema=off",
    ]
    paths = [f"--datadir={here}/mysql", f"--socket={here}/mysql.sock", f"--pid-file={here}/run/mysql.pid"]
    return ["mariadbd", "--no-defaults", *paths, f"--user={user}", "--skip-networking", "--innodb-lock-wait-timeout=900", *small]
