"""Compare every method with its reference library, on tiny models of every family."""
