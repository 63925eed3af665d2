"""Runs in other projects' formats."""
