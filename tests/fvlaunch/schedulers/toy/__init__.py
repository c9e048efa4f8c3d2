"""A scheduler for the tests: a folder is its queue. See scheduler.py."""
