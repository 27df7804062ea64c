"""Redis: the only folder that speaks it, or knows a key or a line of Lua."""
