"""The parquet format, its rows, the stateless sampler, the loader, batches.

May import: config, control (a process of the loader ends with its rank).
Must not know: networks, or how the data were made.
"""
