"""The mutations of `mutations.py` still apply to the code."""

import ast
import re

import pytest
from mutations import MUTATIONS, ROOT, Mutation, path_of, table


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])
def test_a_mutation_applies(mutation: Mutation) -> None:
    """Its text occurs exactly once, the result compiles, and its test exists."""
    source = (ROOT / "reactor" / mutation.module).read_text()
    mutated = mutation.applied_to(source)
    assert ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(source))
    compile(mutated, mutation.module, "exec")
    file, test = re.split("::", mutation.test.partition("[")[0])
    assert f"def {test}(" in (ROOT / path_of(f"{file}::{test}").partition("::")[0]).read_text()


def test_mutations_have_names_of_their_own() -> None:
    """They are run by name."""
    names = [mutation.name for mutation in MUTATIONS]
    assert len(set(names)) == len(names)


def test_a_mutation_that_no_longer_applies_is_said() -> None:
    """With its name and module."""
    stale = MUTATIONS[0]._replace(old="no such text")
    with pytest.raises(ValueError, match=f"mutation {stale.name} no longer applies: 'no such text' occurs 0 times"):
        stale.applied_to("something else")


def test_the_page_lists_them_all() -> None:
    """With the test that notices each."""
    assert table() in (ROOT / "docs" / "reliability.md").read_text()
