"""Deletes zombie JetStream streams and never a live one."""
