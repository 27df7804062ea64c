"""`python -m reactor`."""

from reactor.cli import main

main()
