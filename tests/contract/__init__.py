"""What every method promises, whatever it is."""
