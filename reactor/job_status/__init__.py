"""The sources that know a job's status, and whether a job's absence from them counts."""
