"""Sets of questions, each with its prompts, scores and summary."""
