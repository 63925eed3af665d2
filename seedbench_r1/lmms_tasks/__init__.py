"""SEED-Bench-R1 for lmms-eval: a task group for any of its chat models, and our runner as one of its models."""
