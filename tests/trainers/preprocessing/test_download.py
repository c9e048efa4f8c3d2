"""Downloads go into the Hugging Face cache whole, go on where they were cut short, and say what is missing without internet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.support.paths import ROOT
from tests.support.trainers.hub_server import COMMIT, Hub, hub
from trainers.config.programs.download import Config

RUN = """
import json, os, sys
from pathlib import Path
from trainers.config.programs.download import Config
from trainers.config import hub_cache
from trainers.control import Control
from trainers.errors import UserError
from trainers.preprocessing import download
control = Control().start()
try:
    code = download.run(Config.model_validate(json.loads(sys.argv[1])), Path.cwd(), control)
except UserError as error:
    print(error)
    code = 76
assert "torch" not in sys.modules
for kind, name, revision in json.loads(sys.argv[2]):
    try:
        print("there", name, hub_cache.snapshot(kind, name, revision))
    except hub_cache.NotHere as error:
        print("not here:", error)
sys.stdout.flush()
os._exit(code)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Hub]:
    for name, size in (("models/org/wan/vae/weights.safetensors", 300_000), ("models/org/wan/model_index.json", 20)):
        path = tmp_path / "hub" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(range(256)) * (size // 256) + b"end")
    for number in range(3):
        path = tmp_path / "hub/datasets/org/clips/data" / f"{number}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * 400_000)
    with hub(tmp_path / "hub") as running:
        yield running


def start(server: str, home: Path, config: dict[str, Any], asked: list[Any] | None = None, **environment: str) -> subprocess.Popen[str]:
    sent = home.with_name("sent")
    with sent.open("w") as pipe:
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", RUN, json.dumps(config), json.dumps(asked or [])],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=[pipe.fileno()],
            env=_environment(home, server) | {"TRAINER_PROGRESS_FD": str(pipe.fileno())} | environment,
        )


def _environment(home: Path, server: str) -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRAINER_", "RANK"))}
    return {**plain, "HF_HOME": str(home), "HF_ENDPOINT": server, "PYTHONPATH": str(ROOT)}


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=240)
    return process.returncode, output


def test_models_and_datasets_are_fetched_at_their_revision(server: Hub, tmp_path: Path) -> None:
    config = {"models": [{"id": "org/wan", "revision": COMMIT}], "datasets": [{"id": "org/clips", "allow_patterns": ["data/[01].parquet"]}]}
    asked = [("model", "org/wan", COMMIT), ("dataset", "org/clips", None), ("model", "org/other", None)]
    code, output = finish(start(server.url, tmp_path / "home", config, asked))
    assert code == 0, output
    there = {line.split()[1]: Path(line.split()[2]) for line in output.splitlines() if line.startswith("there")}
    assert (there["org/wan"] / "vae/weights.safetensors").read_bytes().endswith(b"end")
    assert sorted(p.name for p in (there["org/clips"] / "data").iterdir()) == ["0.parquet", "1.parquet"]  # in part, as asked for
    assert "not here: the model org/other is not in the Hugging Face cache" in output
    sent = [json.loads(line) for line in (tmp_path / "sent").read_text().splitlines()]
    last = [m for m in sent if m.get("phase") == "downloading"][-1]
    assert last["count"] == last["max_steps"] == (300_000 + 800_000) // 2**20


def test_a_killed_download_goes_on_with_what_is_missing_and_is_not_taken_for_whole(server: Hub, tmp_path: Path) -> None:
    config, home = {"datasets": [{"id": "org/clips"}]}, tmp_path / "home"
    (tmp_path / "hub/datasets/org/clips/data/0.parquet").write_bytes(b"small: the first to be there")
    server.gate.clear()
    for end, expected in ((signal.SIGKILL, -9), (signal.SIGTERM, 75)):
        before, process = len(server.served), start(server.url, home, config)
        while len(server.served) < before + 2 or not list(home.glob("hub/datasets--*/snapshots/*/data/0.parquet")):
            assert process.poll() is None, process.communicate()[0]  # the two others do not get beyond their beginning
            time.sleep(0.01)
        process.send_signal(end)
        code, output = finish(process)
        assert code == expected, output
    code, output = finish(start("http://127.0.0.1:1", home, config))
    assert code == 76
    assert "the Hugging Face hub cannot be reached, and not all is here: the dataset org/clips is " in output
    assert "with HF_HOME on a disk that both see" in output
    server.gate.set()
    code, output = finish(start(server.url, home, config, [("dataset", "org/clips", "main")]))
    assert code == 0, output
    assert "there org/clips" in output
    assert server.served.count("data/0.parquet") == 1


def test_what_is_here_needs_no_internet(server: Hub, tmp_path: Path) -> None:
    config = {"models": [{"id": "org/wan"}]}
    assert finish(start(server.url, tmp_path / "home", config))[0] == 0
    served = len(server.served)
    assert finish(start(server.url, tmp_path / "home", config))[0] == 0
    assert len(server.served) == served  # nothing twice
    for url, environment in (("http://127.0.0.1:1", {}), (server.url, {"HF_HUB_OFFLINE": "1"})):
        code, output = finish(start(url, tmp_path / "home", config, **environment))
        assert code == 0, output


@pytest.mark.parametrize(
    ("repository", "message"),
    [
        ({"id": "org/nothing"}, "there is no model org/nothing on the hub, or it is not yours to see"),
        ({"id": "org/wan", "revision": "v9"}, "the model org/wan has no revision v9"),
        ({"id": "org/wan", "allow_patterns": ["*.bin"]}, "the model org/wan has no files that are wanted"),
    ],
)
def test_what_the_hub_does_not_have_is_one_clear_error(server: Hub, tmp_path: Path, repository: dict[str, Any], message: str) -> None:
    code, output = finish(start(server.url, tmp_path / "home", {"models": [repository]}))
    assert (code, message in output) == (76, True), output


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "nothing to download"),
        ({"models": [{"id": "wan"}]}, "not the id of a Hugging Face repository"),
        ({"models": [{"id": "../../etc"}]}, "not the id of a Hugging Face repository"),
    ],
)
def test_a_block_that_names_nothing_is_refused_before_it_is_submitted(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(config)
