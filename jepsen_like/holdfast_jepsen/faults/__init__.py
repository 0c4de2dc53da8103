"""What goes wrong, and when: plans drawn from a seed."""
