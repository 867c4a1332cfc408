"""The compression lab in its parts: the recipe, what it will cost, the plane of what was tried, the shelf, the way out."""
