"""Run directories: written, continued and read."""
