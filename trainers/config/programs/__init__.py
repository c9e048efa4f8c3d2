"""Owns the keys of the jobs beside training: download, preprocess, evaluate, export.

May import: config only.
"""

OTHER_PROGRAMS = ("preprocess", "download", "evaluate", "export")
"""What a rank can do beside training, by the key of its configuration file."""
