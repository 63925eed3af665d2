"""Imported by the conftest.py of every folder that uses Hypothesis: a busy machine is no counterexample."""

from hypothesis import settings

settings.register_profile("no clock", deadline=None)
settings.load_profile("no clock")
