"""Promises about packages with kernels: versions whose gradients are wrong are refused by name, on the cards where they are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from trainers.models.attention import kernel_packages

HOPPER, AMPERE, BLACKWELL, ADA = (9, 0), (8, 0), (10, 0), (8, 9)
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a package of that name and version where it can be imported, on a machine with a card."""
    kernel_packages.found.cache_clear()
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("FASTVIDEO_VSA_TRITON", "FASTVIDEO_KERNEL_VSA_FORCE_TRITON"):
        monkeypatch.delenv(name, raising=False)

    def made(distribution: str, version: str, card: tuple[int, int], *, ops: str = "", code: str = "block_sparse_attn = len\n") -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: card)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA Test")
        if version:
            about = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
            about.mkdir()
            (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        if distribution == "vsa":
            (tmp_path / "vsa.py").write_text(code)
            return
        package = tmp_path / "fastvideo_kernel"
        (package / "_C").mkdir(parents=True)
        for file, text in {"__init__.py": "", "_C/__init__.py": "", "block_sparse_attn.py": code}.items():
            (package / file).write_text(text)
        if ops:
            (package / "_C" / "fastvideo_kernel_ops.py").write_text(ops)

    yield made
    kernel_packages.found.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] in ("vsa", "fastvideo_kernel")]:
        del sys.modules[name]


OPS = "block_sparse_fwd = block_sparse_bwd = len\n"


@pytest.mark.parametrize("card", [AMPERE, ADA, BLACKWELL])
@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("vsa", "0.0.3"),
        ("vsa", "0.0.4"),
        ("vsa", "0.0.5"),
        ("vsa", "0.0.5+cu128"),
        ("fastvideo-kernel", "0.2.6"),
        ("fastvideo-kernel", "0.3.3"),
        ("fastvideo-kernel", "0.3.3+cu128"),
        ("fastvideo-kernel", "0.3.3.post2"),
        ("fastvideo-kernel", "0.3"),
    ],
)
def test_a_version_with_wrong_gradients_is_refused_by_name(install: Install, name: str, version: str, card: tuple[int, int]) -> None:
    install(name, version, card, ops=OPS)
    kernel, why = kernel_packages.found()
    assert kernel is None
    assert why.startswith(f"{name} {version} gives wrong gradients on NVIDIA Test (compute capability {card[0]}.{card[1]})")


@pytest.mark.parametrize(
    ("name", "version"), [("fastvideo-kernel", v) for v in ("0.3.4", "0.3.5", "0.3.4rc1", "0.10.0", "1.0", "")] + [("vsa", "")]
)
def test_a_version_that_is_not_known_to_be_wrong_is_left_to_the_comparison(install: Install, name: str, version: str) -> None:
    install(name, version, AMPERE)
    assert kernel_packages.found() == (len, "")


@pytest.mark.parametrize(("name", "version"), [("vsa", "0.0.5"), ("fastvideo-kernel", "0.3.3")])
def test_on_a_hopper_card_the_packages_own_kernels_are_right(install: Install, name: str, version: str) -> None:
    install(name, version, HOPPER, ops=OPS)
    assert kernel_packages.found() == (len, "")


@pytest.mark.parametrize("variable", ["FASTVIDEO_VSA_TRITON", "FASTVIDEO_KERNEL_VSA_FORCE_TRITON"])
def test_on_a_hopper_card_that_is_made_to_use_triton_they_are_wrong(
    install: Install, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    install("fastvideo-kernel", "0.3.3", HOPPER, ops=OPS)
    assert "fastvideo-kernel 0.3.3 gives wrong gradients" in kernel_packages.found()[1]


def test_on_a_hopper_card_a_build_without_its_kernels_is_wrong(install: Install) -> None:
    install("fastvideo-kernel", "0.3.3", HOPPER)
    assert "fastvideo-kernel 0.3.3 gives wrong gradients" in kernel_packages.found()[1]


def test_a_refused_package_is_never_imported(install: Install) -> None:
    install("vsa", "0.0.5", AMPERE, code="raise SystemExit\n")
    assert kernel_packages.found()[0] is None


def test_what_is_installed_and_cannot_be_imported_is_told(install: Install) -> None:
    install("fastvideo-kernel", "0.3.5", AMPERE, code="raise OSError('libcudart.so.12: cannot open shared object file')\n")
    kernel, why = kernel_packages.found()
    assert kernel is None
    assert why == "fastvideo-kernel 0.3.5 cannot be imported (OSError: libcudart.so.12: cannot open shared object file)"


def test_a_right_package_beside_a_wrong_one_is_taken(install: Install) -> None:
    install("fastvideo-kernel", "0.3.2", AMPERE, ops=OPS)
    install("vsa", "", AMPERE, code="block_sparse_attn = max\n")
    assert kernel_packages.found() == (max, "")
