"""NATS: the only folder that speaks it. What a request means to a job is decided elsewhere."""
