"""The parquet format, its rows, the stateless sampler, the loader, batches.

May import: config.
Must not know: networks, or how the data were made.
"""
