"""The settings, and how their variables are read. Only `bootstrap`, `cli` and `worker` use them."""
