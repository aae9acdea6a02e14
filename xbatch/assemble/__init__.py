"""From a job specification to the parts that run it: the only part that knows the implementations."""
