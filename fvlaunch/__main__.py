"""`python -m fvlaunch` is `fvlaunch`."""

from .cli import main

main()
