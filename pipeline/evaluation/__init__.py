"""A result against the truth, against another result, and against itself."""
