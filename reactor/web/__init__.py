"""The worker's HTTP endpoint: read only. It asks `operate`, and decides nothing."""
