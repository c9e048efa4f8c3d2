"""Owns the Markdown pages of the repository for the tests: their generated parts, their code blocks and their links."""
