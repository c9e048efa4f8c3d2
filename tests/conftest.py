"""Owns what every test may use: the marks of rows of printed tables, and the fixture `figure` by which a test reports what it measured."""

from __future__ import annotations

pytest_plugins = ["tests.support.rows"]
