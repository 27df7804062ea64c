"""Places for backups of streams: write, list, read and tidy them. This folder uses neither NATS nor Redis."""
