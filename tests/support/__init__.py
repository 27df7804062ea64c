"""Shared by the tests: worlds on servers, servers to break, a bench to act between the steps of a drain."""
