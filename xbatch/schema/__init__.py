"""What xbatch reads and writes, described: pydantic models at the edge, and JSON Schemas made from them.

The models are for readers, editors and other programs; nothing of a run goes through them.
"""
