"""Which rows there are and in which order they go to the engine. Pure, but for spool files."""
