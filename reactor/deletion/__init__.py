"""The only room that deletes streams: inspect, fence, prove, delete, tell. It decides nothing: `core.policy` does."""
