"""What an operator asks and orders: one implementation for the commands, the HTTP API and the page."""
