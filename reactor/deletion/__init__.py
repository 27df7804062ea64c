"""The only folder that deletes streams: inspect, fence, prove, delete, record. Decisions are in `core.policy`."""
