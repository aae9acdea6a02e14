"""What a job is told to do, and what makes it this job and no other."""
