"""A rank that prints its environment, and dies of an error that holds the secret: nobody reads it afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fvlaunch.config import secrets as secret_values
from tests.support.launcher import LIMITS, Workspace
from tests.support.rows import fault

CANARY = "cafe-9876543210-canary"
LEAKY = """
import os
from trainers.methods.finetune import FineTuneMethod


class Leaky(FineTuneMethod):
    def __init__(self, cfg, role_models):
        print("\\n".join(f"{k}={v}" for k, v in os.environ.items()), flush=True)
        raise ValueError(f"cannot log in with {os.environ['LAB_TOKEN']}")
"""


@fault("H5", "a rank prints its environment and dies of an error with the secret in it")
def test_a_canary_is_in_no_file_under_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path, {key: value for key, value in os.environ.items() if key != "LAB_TOKEN"})
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    secret = secret_values.file("LAB_TOKEN")
    secret.parent.mkdir(parents=True)
    secret.write_text(CANARY)
    secret.chmod(0o600)
    workspace.write("leaky.py", LEAKY)
    profile = {"executor": "local", "paths": {"data": "data"}, "secrets": ["LAB_TOKEN"], "setup": "set -x"}
    workspace.write("clusters/here.yaml", {**profile, "limits": {**LIMITS, "crashes": 0}})
    workspace.submit("leaks", "--ranks", "1", "--set", "train.method={kind: './leaky.py:Leaky'}")
    found = workspace.finish("leaks")
    assert found["state"] == "failed" and "cannot log in with" in found["reason"] and CANARY not in str(found)
    files = [path for path in (workspace.runs / "leaks").rglob("*") if path.is_file()]
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []
    log = (workspace.runs / "leaks/logs/attempt-0001/rank-0000.log").read_text()
    assert f"LAB_TOKEN={'*' * len(CANARY)}" in log  # it was there: the rank had it from the file
