"""Who knows what the status of a job is, and what the absence of a job is worth."""
