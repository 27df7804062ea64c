"""Every interleaving of a drain in a small model, and what happens without each of its steps. See protocol.py."""

import pytest
from support.harness import print_figure
from support.protocol import Protocol, Without, explore, first

FLUSHED, REMADE, FULL, CUT = {"flushes": 1}, {"remakes": 1}, {"room": 1}, {"cuts": 1}
TROUBLES = {"Redis emptied": FLUSHED, "stream made anew": REMADE, "stream full": FULL, "leader cut off": CUT}
trouble_of_each = pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)


@trouble_of_each
def test_no_interleaving_loses_a_message(trouble: dict[str, int]) -> None:
    """Two messages, two replicas, a retried job, crashes and lost requests at every step."""
    found = explore(Protocol(), first(2, 2, **trouble))
    print_figure(f"{found.states} states, no loss")
    assert not found.story, "\n".join(found.story)
    assert found.states > 7_000


@pytest.mark.parametrize(
    ("without", "trouble", "loss"),
    [
        (Without.BARRIER, REMADE, "acknowledged and is destroyed"),
        (Without.CHECK_BEFORE_DELETE, REMADE, "acknowledged and is destroyed"),
        (Without.CHECKS_BEFORE_FENCE_AND_UNFENCE, FLUSHED, "acknowledged and is destroyed"),
        (Without.RESPECT, FLUSHED, "acknowledged and is destroyed"),
        (Without.LEASE_CHECK, FLUSHED, "acknowledged and is destroyed"),
        (Without.RECHECK, REMADE, "started again before the fence stood"),
        (Without.GUARDS, FULL, "destroyed to make room"),
        (Without.FOLLOWERS, CUT, "acknowledged and is destroyed"),
    ],
    ids=lambda value: value.name.lower() if isinstance(value, Without) else "",
)
def test_each_step_is_needed(without: Without, trouble: dict[str, int], loss: str) -> None:
    """Without it there is a loss within a few steps. The story is printed."""
    check_loss(without, trouble, loss)


@pytest.mark.parametrize(
    "assumption", [Without.LATE_DELETE, Without.FOREIGN_DELETER], ids=lambda item: item.name.lower()
)
def test_the_residual_races_are_the_documented_ones(assumption: Without) -> None:
    """The server has no precondition against them, as docs/safety.md says."""
    check_loss(assumption, REMADE, "acknowledged and is destroyed")


def check_loss(without: Without, trouble: dict[str, int], loss: str) -> None:
    """Return the shortest counterexample as a story."""
    found = explore(Protocol(frozenset({without})), first(2, 2, **trouble))
    print_figure("\n    ".join([f"without {without.name.lower()}, {found.states} states:", *found.story]))
    assert found.story
    assert loss in found.story[-1]


@pytest.mark.soak
@pytest.mark.timeout(3600)
@trouble_of_each
def test_no_interleaving_loses_a_message_at_length(trouble: dict[str, int]) -> None:
    """With a third attempt that takes over from either."""
    found = explore(Protocol(), first(2, 3, **trouble))
    print_figure(f"{found.states} states, no loss")
    assert not found.story, "\n".join(found.story)
