"""The studies, one folder each, all of the same shape."""
