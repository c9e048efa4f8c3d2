"""Looks at a cluster, a node and this machine, and judges what it finds (`fvlaunch doctor`).

May import: runs, schedulers, config.
Must not know: what is printed. Must not leave anything behind.
"""
