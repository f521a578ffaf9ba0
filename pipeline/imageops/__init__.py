"""Arrays in, arrays or numbers out. Nothing here knows of jobs, files or tiles."""
