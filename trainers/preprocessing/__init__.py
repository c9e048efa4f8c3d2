"""Clips, prompts or others' parquet files -> training data: a job that can be cut short anywhere and goes on there."""
