"""Compare a result with the truth, with another result, and with itself."""
