"""Owns what the programs that a person starts (export, sample) share: their log lines and how an error is printed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from .errors import UserError

log = logging.getLogger(__name__)


def told(run: Callable[[], None]) -> int:
    """An exit code: 0; 1 for what a person can mend, told in a line; 2 for a crash."""
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
