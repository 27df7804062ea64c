"""Logs, traces, metrics and alerts: what is told to people. Nothing here decides or changes anything."""
