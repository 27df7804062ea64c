"""Backups on disk: the only room that writes files. It knows nothing of NATS; what it is handed are bytes."""
