"""Promises of tests/benchmarks/cuda.py that hold without a GPU: it runs, says what is wrong, and counts operations rightly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks import cuda_checks
from tests.benchmarks.__main__ import rounds, scripts
from tests.benchmarks.cuda_figures import Bench, Case, train_block
from tests.benchmarks.cuda_flops import Sizes
from tests.benchmarks.cuda_rows import MATRIX_PRODUCT, Check, Figure, Report, checked
from tests.support.trainers.one_rank import one_rank
from trainers.config.models.wan import WanArchitecture
from trainers.distributed.mesh import ParallelContext

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests/benchmarks/cuda.py"
SIZES = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 32, "ffn_dim": 512, "text_dim": 16, "freq_dim": 32}


def started(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], cwd="/", env=environment, capture_output=True, text=True)


@pytest.mark.long
def test_the_dry_run_keeps_all_limits_and_a_second_call_measures_nothing_again(tmp_path: Path) -> None:
    command = ("--cpu-dry-run", "--results", str(tmp_path / "rows.jsonl"), "--json", str(tmp_path / "found.json"))
    done = started(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["kept"] and len(found["checks"]) >= 7 and "FAIL" not in done.stdout
    assert {"finetune", "dfsft, causal Wan"} <= {figure["name"] for figure in found["figures"] if figure["step_s"]}
    assert all(f"| {row['name']} |" in done.stdout for row in found["checks"] + found["figures"])
    rows = (tmp_path / "rows.jsonl").read_text()
    again = started(*command)
    assert again.returncode == 0 and (tmp_path / "rows.jsonl").read_text() == rows
    assert json.loads((tmp_path / "found.json").read_text())["figures"] == found["figures"]


def test_without_a_gpu_it_says_so_in_a_line() -> None:
    done = started()
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: there is no CUDA device: ") and done.stderr.count("\n") == 1


def test_whatever_breaks_a_check_is_a_row_and_the_others_stand(tmp_path: Path) -> None:
    report = Report("here", [checked("divides", "1", lambda: (str(1 // 0), True)), Check("holds", "1", "1", True)])
    assert [check.kept for check in report.checks] == [False, True] and not report.kept
    assert "| divides | ZeroDivisionError: integer division or modulo by zero | 1 | FAIL |" in report.markdown()
    report.write(tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text())["kept"] is False


def test_a_figure_is_counted_from_its_seconds() -> None:
    step, product = Figure("step", 0.5, 1000, 2e12, 3.25, 4.5, 4.75, "so"), Figure(MATRIX_PRODUCT, 1.0, flops=16e12)
    report = Report("here", figures=[step, Figure("none", note="too big"), product])
    assert "| step | 0.5 | 2,000 | 4 | 25% | 3.2 | 4.5 | 4.8 | so |\n| none |  |  |  |  |  |  |  | too big |" in report.markdown()
    told = "step, 0.5 s, 2,000 tokens/s, 4 TFLOP/s, 25% of the matrix product, 3.2 GB peak, 4.5 GB reserved, 4.8 GB estimated, so"
    assert report.short()[0] == told


@pytest.fixture(scope="module")
def parallel() -> Iterator[ParallelContext]:
    with one_rank() as found:
        yield found


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_a_network_that_computes_otherwise_is_told(parallel: ParallelContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16's own errors, held to float32's limits."""
    monkeypatch.setitem(cuda_checks.LIMITS, "bf16", cuda_checks.LIMITS["fp32"])
    monkeypatch.setattr(cuda_checks, "VARIANTS", (cuda_checks.Variant("bf16", "causal-wan", "bf16", cheap=True),))
    (network,), (attention,) = (cuda_checks.rows(parallel, kind, small=True) for kind in ("networks", "flex_attention"))
    assert not network.kept and "e-03, gradients" in network.found
    assert attention.kept


CHECKPOINTED = {"activation_checkpointing": "full"}
CASES = [
    Case("all weights", student=CHECKPOINTED),
    Case("nothing again", student={"activation_checkpointing": "none"}),
    Case("adapters", student={**CHECKPOINTED, "lora": {"rank": 4}}),
    Case("causal", "dfsft", "causal-wan", CHECKPOINTED),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_operations_of_a_step_are_those_that_torch_counts(parallel: ParallelContext, case: Case) -> None:
    """But for attention under a mask, which torch counts as if all pairs were computed, and what the formula leaves out."""
    architecture = WanArchitecture.model_validate(SIZES)
    sizes = Sizes(architecture, (4, 16, 16), 6, per_block=case.per_block)
    bench = Bench(train_block(case, architecture), sizes, parallel)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        bench.step()
    unmasked = Sizes(architecture, (4, 16, 16), 6)
    masked_away = 4 * 4.0 * architecture.num_layers * sizes.width * (unmasked.pairs - sizes.pairs)
    assert case.flops(sizes) + masked_away + left_out(case, sizes) == counted.get_total_flops()


def left_out(case: Case, sizes: Sizes) -> float:
    """The first layers' inputs need no gradient. With adapters these are the prompt and the first block's input."""
    a, n, d, prompt = sizes.architecture, sizes.tokens, sizes.width, sizes.prompt
    if "lora" not in case.student:
        return -2 * d * (4 * n * a.in_channels + prompt * a.text_dim + sizes.timesteps * a.freq_dim)
    inputs = d + case.student["lora"]["rank"]
    last = 2 * n * d * 4 * a.out_channels
    return last - 3 * 2 * n * d * inputs - a.num_layers * 2 * 2 * prompt * d * inputs


def test_a_step_of_wan_1_3b_counts_what_the_docstring_says() -> None:
    """By hand for 29,120 tokens, 1536 wide, 8960 inside, 30 layers, 512 prompt tokens."""
    sizes: Any = Sizes(WanArchitecture(), (20, 56, 104), 512)
    assert sizes.tokens == 29120 and sizes.pairs == 29120**2
    n, d, f, prompt = 29120, 1536, 8960, 512
    block = 12 * n * d * d + 4 * prompt * d * d + 4 * n * d * f + 4 * n * n * d + 4 * n * prompt * d
    outside = 2 * n * d * 128 + 2 * prompt * (4096 * d + d * d) + 2 * (256 * d + 7 * d * d)
    assert Case("", student=CHECKPOINTED).flops(sizes) == 120 * block + 3 * outside
    assert Sizes(WanArchitecture(), (20, 56, 104), 512, per_block=3).pairs == 1456**2 * (3 * (3 + 6 + 9 + 12 + 15 + 18) + 2 * 20)


def test_the_cpu_figures_find_every_script_but_cuda_py() -> None:
    found = {path.name for path in scripts(ROOT / "tests/benchmarks")}
    assert {"launcher.py", "data.py"} <= found
    assert not found & {"cuda.py", "__main__.py", "cuda_rows.py", "cuda_runner.py"}
    assert rounds('"""x"""\nROUNDS = 21\n', quick=True) == ["5"] and rounds("ROUNDS = 2\n", quick=True) == ["1"]
    assert rounds("ROUNDS = 21\n", quick=False) == [] and rounds("", quick=True) == []
