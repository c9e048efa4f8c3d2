"""Owns what the programs that a person starts (export, sample) share: their options, their log lines and how an error is printed.

The environment may hold TRAINER_COMMAND, what a person typed where it was not this program: hints name it.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from .config.os_errors import explain
from .errors import NodeError, UserError

log = logging.getLogger(__name__)


class Parser(argparse.ArgumentParser):
    """A parser whose refusals are a person's mistakes like any other: a UserError, for `exit_code_of` to print."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "), f"{os.environ.get('TRAINER_COMMAND') or self.prog} --help")

    def add_check_only(self) -> None:
        """Add the option of a launcher that asks before it queues a job: nothing is made, and no weights are read."""
        self.add_argument("--check-only", choices=["options", "all"], help=argparse.SUPPRESS)


def exit_code_of(run: Callable[[], None]) -> int:
    """Run a program and return its exit code: 0; 1 for what a person can mend, printed in a line; 130 for Ctrl-C; 2 for a crash.

    What the operating system refuses (a folder that may not be written in, a full disk) is such a thing.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="warning: %(message)s", force=True)
    try:
        run()
    except (UserError, NodeError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except OSError as error:
        refusal = explain(error)
        if refusal is None:
            log.exception("this should not have happened")
            return 2
        sys.stderr.write(f"error: {UserError(refusal.message, refusal.hint)}\n")
        return 1
    except Exception:
        log.exception("this should not have happened")
        return 2
    return 0
