"""The use cases: hear, sweep, reconcile, drain. Resources are handed in, and `drain` alone has an effect on streams."""
