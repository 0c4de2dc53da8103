"""Known ways of breaking Holdfast, and whether the harness finds them."""
