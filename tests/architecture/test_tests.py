"""What holds of the tests themselves: what several of them use is kept in tests/support or in a conftest, never in a test's file."""

from __future__ import annotations

import ast
import re

from tests.support.paths import ROOT


def test_no_file_imports_a_file_of_tests() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {module}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(), str(path)))
        for module in _modules(node)
        if re.match(r"tests\.(.+\.)?test_", module)
    ]
    assert found == [], "move what both use to tests/support, a fixture to the folder's conftest.py"


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []
