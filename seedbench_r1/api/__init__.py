"""Requests to servers: one client, its cost and many at once."""
