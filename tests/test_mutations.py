"""The mutations stay applicable; running them is for tests/mutations.py, since it takes minutes."""

import pytest
from mutations import MUTATIONS, ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_applies_and_compiles(mutation: Mutation) -> None:
    """To exactly one place, and in tests that exist."""
    compile(mutation.applied(), mutation.file, "exec")
    assert (ROOT / "tests" / mutation.tests.partition(":")[0]).exists()
