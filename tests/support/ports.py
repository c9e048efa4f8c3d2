"""Owns ports for servers under test."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

_LOWEST = 10_000


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now. They stay free: they lie below those that the kernel gives to connections and to port 0."""
    first_given_away = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    numbers, found = list(range(_LOWEST, first_given_away)), list[int]()
    random.SystemRandom().shuffle(numbers)
    for number in numbers:
        if len(found) == count:
            return found
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", number))
            found.append(number)
    raise AssertionError("no port is free")
