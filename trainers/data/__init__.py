"""Training data: the parquet format, how clips become it, and the stateless way in which a run reads it."""
