"""Owns what every test may use: the marks of rows of printed tables, the fixture `figure` by which a test reports what it measured, and
what all of them need of their own process."""

from __future__ import annotations

import os
import signal

pytest_plugins = ["tests.support.rows"]

# Several tests run at a time, and tiny networks gain nothing from a second thread: threads that outnumber the cores wait for each other in
# a loop, and took up most of the time. Set before anything imports torch; a person's own value wins.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What `nohup` or a script starts in the background ignores Ctrl-C, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
