"""The same engine behind HTTP: what OpenAI's and Xinference's clients ask for, and OpenAI's Files and Batches."""
