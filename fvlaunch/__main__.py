"""`python -m fvlaunch` is `fvlaunch`."""

import os
import sys

if sys.path[0] == os.getcwd():  # noqa: PTH109  -m puts it there; whatever lies in it is no module of ours
    del sys.path[0]

from .cli.app import main

main()
