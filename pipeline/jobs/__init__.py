"""What was asked for: the job, its segmenters, routes and layers, and plug-ins."""
