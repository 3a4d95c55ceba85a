"""How does a JSON file become checked settings? One reader for all configs."""
