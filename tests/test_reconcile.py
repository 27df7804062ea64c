"""`reactor reconcile` by hand and by script: what falls, what stays, and what the report says."""

from harness import World


async def test_a_stream_without_a_job_falls(world: World) -> None:
    """In a ledger that covers it and knows another job."""
    await world.declare()
    await world.emit(2, "STARTED")
    await world.stream("job_1", messages=3)
    report = await world.reconcile()
    assert (report["checked"], report["fixed"], report["unfixable"], report["code"]) == (1, 1, 0, 0)
    assert report["streams"][0] | {"age_s": 0} == {
        "stream": "job_1",
        "job_id": "1",
        "verdict": "drained",
        "reason": "missing",
        "status": None,
        "age_s": 0,
        "terminal_at": None,
        "until": None,
        "messages": 3,
        "redelivered": 0,
        "detail": None,
    }
    assert await world.names() == set()
