"""Logs, traces, metrics, alerts and messages. Nothing here decides or changes anything."""
