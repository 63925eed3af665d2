"""SEED-Bench-R1: evaluate video multimodal LLMs on next-action questions, and compare them honestly."""

__version__ = "0.1.0"
