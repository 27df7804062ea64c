"""When streams are judged: on events, when they are due, and in full passes. Deleting is left to `deletion`."""
