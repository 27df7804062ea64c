"""Is everything in order? Examinations gather, judges (pure) say what it means, remedies what to do."""
