"""The one composition root: settings become connections, and connections become services."""
