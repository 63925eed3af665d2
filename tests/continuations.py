"""Requests that continue an assistant's text, for the tests of every backend."""

from __future__ import annotations

from dataclasses import replace

from tests.tiny_models import request

PREFIX = "<think>The cup is dirty, so I should wash the cup.</think><answer>"
LETTERS = ("A", "B", "C", "D")
TEXTS = ("wash the cup</answer>", "wash the cups</answer>", "open the box</answer>", "wash up</answer>")


def asked(family="qwen2_5_vl", continuations=()):
    """Clips of several lengths, prompts of several, and one without a clip."""
    plain = [
        request("L1/short", family),
        request("L1/minute", family, n_frames=16, seconds=60.0),
        request("L1/image", family, n_frames=None, cells=(6, 4)),
        request("L1/wordy", family, question="What should be done next? " * 20),
        request("L1/other", family, cells=(3, 3)),
    ]
    return [replace(one, prefix=PREFIX, continuations=continuations) for one in plain]
