"""The only truth about a job's progress: what lies in its state folder."""
