"""Wrong implementations, one file per technique, and the checks that must catch them."""
