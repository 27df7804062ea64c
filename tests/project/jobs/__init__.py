"""The app of the jobs."""
