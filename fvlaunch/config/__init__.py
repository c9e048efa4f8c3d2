"""Recipes and cluster profiles: strict YAML to typed values, each with its place. Empty, since listing them needs no pydantic."""
