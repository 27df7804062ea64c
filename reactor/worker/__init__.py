"""The always-on process: it turns settings into connected parts, and runs the loops."""
