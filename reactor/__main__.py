"""`python -m reactor`."""

from reactor.cli.main import main

main()
