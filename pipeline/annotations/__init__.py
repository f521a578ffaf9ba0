"""What people drew or give: masks, polygons, COCO files, seeds, and where they lie on an image."""
