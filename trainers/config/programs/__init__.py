"""The keys of the jobs beside training: download, preprocess, evaluate, export.

May import: config only.
"""
