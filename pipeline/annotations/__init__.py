"""Annotations: masks, polygons, COCO files and seeds, and their position on an image."""
