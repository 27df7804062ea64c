"""The only folder that speaks NATS. What an answer means for a job is decided elsewhere."""
