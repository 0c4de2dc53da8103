"""What clients do while things go wrong."""
