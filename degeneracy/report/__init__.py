"""What does a reader see? The page, its tables, and figures that more than one study draws."""
