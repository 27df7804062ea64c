"""The decision, pure. Nothing here awaits, reads a clock or knows a server: plain values in, plain values out."""
