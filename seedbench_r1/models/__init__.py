"""Checkpoints: found, identified, and how each family turns pixels into tokens."""
