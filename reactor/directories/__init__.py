"""Who knows what a job's status is, and what the absence of a job is worth."""
