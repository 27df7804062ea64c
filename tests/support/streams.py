"""Streams, records and a policy, for tests of decisions."""

import re

from hypothesis import strategies as st

from reactor.core.model import SECOND, Consumers, Coverage, Fence, OwnTimes, Record, StatusEvent, Stream
from reactor.core.policy import Policy

HOUR = 3600 * SECOND
MINUTE = 60 * SECOND
NOW = 1_000_000 * SECOND
POLICY = Policy(
    pattern=re.compile(r"^job_(?P<job_id>0|[1-9][0-9]*)$", re.ASCII),
    age_guard=HOUR,
    terminal_grace=5 * MINUTE,
    idle_guard=10 * MINUTE,
    missing_guard=2 * HOUR,
    dispute_guard=3 * HOUR,
    terminal_statuses=frozenset({"SUCCESS", "FAILURE", "REVOKED", "DELETED"}),
    protect=("job_9*",),
)
OLD = Stream("job_1", "1", NOW, created=NOW - 10 * HOUR)

STREAMS = st.builds(
    Stream,
    name=st.just("job_1"),
    job_id=st.just("1"),
    observed_at=st.integers(0, 10 * HOUR),
    created=st.none() | st.integers(0, 10 * HOUR),
    reported=st.booleans(),
    protected=st.booleans(),
    own=st.none()
    | st.builds(
        OwnTimes,
        st.none() | st.integers(0, 10 * HOUR),
        st.none() | st.integers(0, 10 * HOUR),
        st.none() | st.integers(0, 10 * HOUR),
        st.none() | st.just("reactor.age-guard='x'"),
    ),
    metadata=st.sampled_from([{}, {"kind": "training"}, {"kind": "report", "team": "ml"}]),
    fenceable=st.booleans(),
    fence=st.none() | st.builds(Fence, st.just("t"), st.integers(0, 10 * HOUR), st.sampled_from([(), ("a",)])),
    last_publish=st.none() | st.integers(0, 10 * HOUR),
    consumers=st.none()
    | st.builds(Consumers, st.none() | st.integers(0, 10 * HOUR), st.just(0), st.none() | st.integers(0, 10 * HOUR)),
)
WORDS = st.builds(
    StatusEvent,
    st.integers(0, 10 * HOUR),
    st.integers(1, 9),
    st.sampled_from(["SUCCESS", "revoked", "STARTED", "?", "x"]),
    st.integers(0, 10 * HOUR),
)
RECORDS = st.lists(WORDS, min_size=1, max_size=3).map(lambda words: Record.of(*words))
COVERAGES = st.builds(Coverage, st.booleans(), st.none() | st.integers(0, 10 * HOUR))
