"""Owns what the programs that a person starts (export, sample) share: their log lines and how an error is printed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from .errors import UserError

log = logging.getLogger(__name__)


def exit_code_of(run: Callable[[], None]) -> int:
    """Run a program and return its exit code: 0; 1 for a UserError, printed in a line; 130 for Ctrl-C; 2 for a crash."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="warning: %(message)s", force=True)
    try:
        run()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except Exception:
        log.exception("this should not have happened")
        return 2
    return 0
