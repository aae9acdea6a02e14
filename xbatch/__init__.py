"""xbatch turns a file of LLM requests into a file of answers, and never loses or repeats a row."""

__version__ = "0.1.0"
