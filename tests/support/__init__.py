"""What the tests share: worlds on servers, servers to break, a bench to stand between the steps of a drain."""
