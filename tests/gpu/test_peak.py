"""Who holds the memory at a peak, of a recorded history of allocations."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from tests.gpu import peak


def event(action: str, address: int, size: int, line: int) -> dict[str, object]:
    frames = [{"filename": "torch/_C.so", "line": 0, "name": "c"}, {"filename": "trainers/models/wan.py", "line": line, "name": "build"}]
    return {"action": action, "addr": address, "size": size, "frames": frames}


def test_what_is_alive_at_the_peak_is_added_up_by_the_code_that_allocated_it() -> None:
    events = [event("alloc", 1, 2 * 10**9, 10), event("alloc", 2, 3 * 10**9, 10), event("alloc", 3, 10**9, 20)]
    events += [event("free_completed", 1, 2 * 10**9, 0), event("alloc", 4, 10**9, 30)]
    table = peak.table("dmd2, critic", events)
    assert "6.00 GB" in table and "wan.py:30" not in table
    assert table.index("5.000 GB in 2     wan.py:10 build") < table.index("1.000 GB in 1     wan.py:20 build")


def test_an_address_that_is_used_again_counts_once() -> None:
    events = [event("alloc", 1, 10**9, 10), event("free_completed", 1, 10**9, 0), event("alloc", 1, 10**9, 20)]
    assert "1.00 GB" in peak.table("one", events)
