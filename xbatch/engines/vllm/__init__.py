"""vLLM behind the one verb. Nothing outside this folder knows anything of its modules."""
