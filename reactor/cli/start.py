"""The entry point of the `reactor` command. If only the client is installed, it says what is missing."""

import sys
from importlib.metadata import version


def main() -> None:
    """Run the command, or print that the worker is not installed."""
    try:
        from reactor.cli.main import main as run  # noqa: PLC0415  # its libraries may be missing
    except ModuleNotFoundError as error:
        if sys.argv[1:] == ["--version"]:
            sys.stdout.write(f"reactor {version('jetstream-reactor')}\n")
            return
        sys.exit(
            f"reactor: only the client is installed ({error.name} is missing): pip install 'jetstream-reactor[worker]'"
        )
    run()
