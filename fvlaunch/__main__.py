"""`python -m fvlaunch` is `fvlaunch`."""

from .cli.app import main

main()
