"""Owns where things of the repository lie, so that a test that moves need not count folders."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHAPES_TEACHER = ROOT / "tests/fixtures/shapes_teacher"
"""A teacher trained on the moving shapes, as stock diffusers loads it."""
