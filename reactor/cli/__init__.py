"""The commands: parse, wire, run, and turn an error into one line and an exit code."""
