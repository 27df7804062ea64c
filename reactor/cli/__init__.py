"""What a person types. Parse, wire, run, and turn what went wrong into a line and an exit code."""
