"""Decide when streams are judged: on events, when they fall due, and in full passes. `deletion` deletes them."""
