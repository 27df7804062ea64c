"""Disable each guard of the product in turn and show that a test notices: `uv run python tests/mutations.py [NAME]…`.

A green suite shows that the product works; only a red one shows that a guard is tested. Nothing is changed in the
working tree: each mutation is applied to a copy in a temporary folder. Exit code 1 where one survived, does not apply
any more or is broken in itself.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PYTEST = (
    "-m",
    "pytest",
    "-q",
    "-x",
    "--no-cov",
    "-p",
    "no:cacheprovider",
    "--timeout=60",
    "-rfE",
    "--tb=no",
)
PASSED, FAILED = 0, 1
"""Of pytest's exit codes; all others mean that no test said anything."""
LIMIT_S, BASELINE_S = 300.0, 1800.0
"""For the test of one mutation; and for all of these tests, before any mutation."""
VERDICT = re.compile(r"^FAILED tests/(?:\w+/)*(?P<test>\w+\.py::.+?)(?: - (?P<why>.*))?$", re.MULTILINE)
SAID_SO = ("assert", "AssertionError", "TimeoutError", "Failed: ", "ExceptionGroup: Hypothesis")
"""How a test that notices something fails: not by a name that is misspelt in the mutation."""


class Mutation(NamedTuple):
    """One disabled guard: `old` becomes `new` in a module of reactor, and then `test` must fail."""

    name: str
    guard: str
    module: str
    old: str
    new: str
    test: str

    def applied_to(self, source: str) -> str:
        """Return the mutated source. Raises ValueError if the old text does not occur exactly once."""
        if (count := source.count(self.old)) != 1:
            message = f"mutation {self.name} no longer applies: {self.old!r} occurs {count} times in {self.module}"
            raise ValueError(message)
        return source.replace(self.old, self.new)


def read_mutations(text: str) -> Iterator[Mutation]:
    """Read the mutations of `mutations.txt`.

    `== module` names the module of what follows. A mutation is a line `name: guard`, the test that must fail, the text
    that goes (`-`) and the text that comes instead (`+`). If none comes, the line break goes as well.
    """
    module = ""
    for block in text.strip().split("\n\n"):
        if block.startswith("== "):
            module = block.removeprefix("== ")
            continue
        title, test, *lines = block.split("\n")
        name, _, guard = title.partition(": ")
        old, new = ("\n".join(line[1:] for line in lines if line[0] == sign) for sign in "-+")
        goes_whole = not any(line[0] == "+" for line in lines)
        yield Mutation(name, guard, module, old + "\n" * goes_whole, new, test)


MUTATIONS = tuple(read_mutations(Path(__file__).with_suffix(".txt").read_text()))


@dataclass(frozen=True)
class Run:
    """The result of a run of pytest."""

    code: int
    output: str

    @property
    def failure(self) -> tuple[str, str]:
        """The failed test, by file and name, and why; empty if there is none."""
        found = VERDICT.search(self.output)
        return (found["test"], found["why"] or "") if found else ("", "")


def copied(folder: Path) -> None:
    """Return a copy of the product and its tests."""
    for part in ("reactor", "tests", "docs"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)


def python(folder: Path, *args: str, limit_s: float = LIMIT_S) -> Run:
    """Run Python on the copy, which takes precedence over the installed project."""
    env = os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "400"}
    done = subprocess.run(
        (sys.executable, *args), cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=limit_s
    )
    return Run(done.returncode, done.stdout + done.stderr)


def path_of(test: str) -> str:
    """Return the path of a test's file."""
    file, _, name = test.partition("::")
    [found] = (ROOT / "tests").rglob(file)
    return f"{found.relative_to(ROOT)}::{name}"


def run_tests(folder: Path, selected: Iterable[str], workers: str = "0", limit_s: float = LIMIT_S) -> Run:
    """Run these tests of the copy until one fails."""
    named = (path_of(test) for test in dict.fromkeys(selected))
    return python(folder, *PYTEST, "-n", workers, *named, limit_s=limit_s)


def check_baseline(folder: Path, mutations: Sequence[Mutation]) -> None:
    """Check that the copy is imported and that its tests pass. Raises SystemExit."""
    imported = python(folder, "-c", "import reactor; print(reactor.__file__)").output.strip()
    if not Path(imported).is_relative_to(folder):
        message = f"not the copy but {imported} would be tested"
        raise SystemExit(message)
    run = run_tests(folder, (mutation.test for mutation in mutations), "auto", BASELINE_S)
    if run.code != PASSED:
        message = f"the tests fail without any mutation:\n{run.output}"
        raise SystemExit(message)


def rewrite(module: Path, source: str) -> None:
    """Write the source and remove its bytecode: within a second Python takes a text of the same length for the same."""
    module.write_text(source)
    Path(cache_from_source(str(module))).unlink(missing_ok=True)


def tried(folder: Path, mutation: Mutation) -> tuple[str, bool]:
    """Return the last two cells of the mutation's row, and whether it was noticed."""
    module = folder / "reactor" / mutation.module
    source = module.read_text()
    rewrite(module, mutation.applied_to(source))
    run = run_tests(folder, [mutation.test])
    rewrite(module, source)
    test, why = run.failure
    if run.code == PASSED:
        return f"nothing: `{mutation.test}` passes | SURVIVED", False
    if run.code != FAILED or not test.startswith(mutation.test) or not why.startswith(SAID_SO):
        return f"no assertion of `{mutation.test}`: exit {run.code}, {why or run.output[-300:]!r} | BROKEN", False
    return f"`{test}` | red", True


def check_applicable(mutations: Iterable[Mutation]) -> None:
    """Check that all mutations apply. Raises SystemExit."""
    try:
        for mutation in mutations:
            mutation.applied_to((ROOT / "reactor" / mutation.module).read_text())
    except ValueError as error:
        raise SystemExit(str(error)) from None


def table() -> str:
    """Return every guard, with the test that notices when it is disabled."""
    rows = [f"| {item.guard} | `{item.test}` |" for item in MUTATIONS]
    return "\n".join(["| guard disabled | what then fails |", "|---|---|", *rows])


def chosen() -> list[Mutation]:
    """Return the mutations named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="run only these")
    parser.add_argument("--list", action="store_true", help="list all mutations and exit")
    parser.add_argument("--table", action="store_true", help="print the table of docs/reliability.md and exit")
    args = parser.parse_args()
    if args.list:
        print_now("\n".join(f"{mutation.name:28} {mutation.guard}" for mutation in MUTATIONS))
        raise SystemExit(0)
    if args.table:
        print_now(table())
        raise SystemExit(0)
    known = {mutation.name: mutation for mutation in MUTATIONS}
    if strangers := set(args.names) - known.keys():
        parser.error(f"no such mutation: {', '.join(sorted(strangers))}")
    return [known[name] for name in args.names] or list(MUTATIONS)


def print_now(text: str) -> None:
    """Print at once, also into a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Return the exit code."""
    mutations, start, noticed = chosen(), time.monotonic(), 0
    check_applicable(mutations)
    with tempfile.TemporaryDirectory(prefix="mutations-") as name:
        folder = Path(name).resolve()
        copied(folder)
        check_baseline(folder, mutations)
        print_now("| guard disabled | what then fails | result |\n|---|---|---|")
        for mutation in mutations:
            cells, red = tried(folder, mutation)
            noticed += red
            print_now(f"| {mutation.name}: {mutation.guard} | {cells} |")
    print_now(f"\n{time.monotonic() - start:.0f} s")
    print_now(f"{noticed} of {len(mutations)} mutations were noticed")
    return 0 if noticed == len(mutations) else 1


if __name__ == "__main__":
    sys.exit(main())
