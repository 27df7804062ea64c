"""Settings, and how the text of a variable is read. Only the shell (`cli`, `worker`) reads them."""
