"""Logs, traces, metrics and alerts, for people. Nothing here decides or changes anything."""
