"""What says whether the reasoning carries the answer."""
