"""The always-on process: it starts all parts and runs their loops."""
