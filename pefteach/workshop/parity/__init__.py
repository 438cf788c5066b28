"""Is every method equal to its reference? Tiny models of every family, both implementations, the same numbers."""
