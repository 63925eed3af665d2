"""Experiments as files: trainings of several variants with several seeds, measured and compared."""
