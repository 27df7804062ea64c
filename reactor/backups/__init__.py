"""Backups: streams of the server, packed, kept on a shelf and read back. It speaks neither NATS nor Redis."""
