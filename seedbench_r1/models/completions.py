"""Token ids of a completion -> its text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def completion_text(tokenizer: Any, ids: Sequence[int]) -> str:  # noqa: ANN401  # untyped in transformers
    """The text without special tokens, but with the tags of thoughts and answers.

    Trainers make these tags special tokens, which a tokeniser leaves out: thoughts would then run into the answer.
    """
    hidden = _hidden_ids(tokenizer)
    if hidden is None:
        text: str = tokenizer.decode(ids, skip_special_tokens=True)
        return text
    text = tokenizer.decode([token for token in ids if token not in hidden], skip_special_tokens=False)
    return text


@lru_cache(maxsize=8)
def _hidden_ids(tokenizer: Any) -> frozenset[int] | None:  # noqa: ANN401
    """The special tokens that are no tags; None where no tag is one, so that the tokeniser's own way will do."""
    special = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    if not any(text in TAGS for text in special.values()):
        return None
    return frozenset(number for number, text in special.items() if text not in TAGS)
