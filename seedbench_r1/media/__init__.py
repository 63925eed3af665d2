"""Media files become pixels."""
