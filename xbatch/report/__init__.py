"""What the user sees of a job: while it runs, and at its end."""
