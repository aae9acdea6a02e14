"""Rows from Parquet files. pyarrow decodes; it never opens a file itself."""
