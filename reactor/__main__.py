"""`python -m reactor`."""

from reactor.cli.start import main

main()
