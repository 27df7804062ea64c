"""`reactor doctor`: checks read, pure judges turn what they read into findings, and advice says what to do."""
