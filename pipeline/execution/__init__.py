"""A whole run: planning, preparation, dispatch, resuming, upload, and what is told of it."""
