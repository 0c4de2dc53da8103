"""What a run looked like, as one HTML file."""
