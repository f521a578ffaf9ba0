"""Files that people write, options, messages about them, and logs."""
