"""What the YAML files name. Wording, parsing and scoring are the core's; a document is a Question with its messages."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from leaderboards.exports.lmms_results import sample_metrics
from leaderboards.stats import design_effect
from seedbench_r1.files import JsonObject
from seedbench_r1.kinds import score
from seedbench_r1.parsing import assumed_opening, parse_response
from seedbench_r1.prompts import build_messages
from seedbench_r1.runs.records import question_from_json
from seedbench_r1.types import Question, Template, to_json

Document = JsonObject  # of lmms-eval: a question, its messages and the data root


def to_document(question: Question, template: Template, data_root: Path) -> Document:
    """A question as lmms-eval carries it: its own fields, the chat messages as JSON, and where the data is."""
    # As text: the datasets package would force all messages into one type of column.
    messages = json.dumps(build_messages(question, template), ensure_ascii=False)
    document: Document = to_json(question)
    return document | {"messages": messages, "data_root": str(data_root.absolute())}


def given_sampling(generation_kwargs: JsonObject) -> JsonObject:
    """The settings of sampling that a task or --gen_kwargs gives."""
    names = ("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty")
    return {name: generation_kwargs[name] for name in names if generation_kwargs.get(name) is not None}


def doc_to_text(doc: Document) -> str:
    """The complete prompt without media: lmms-eval's cache key. With a system message, that comes first."""
    messages = json.loads(doc["messages"])
    parts = [part["text"] for message in messages for part in message["content"] if part["type"] == "text"]
    return "\n\n".join(parts)


def doc_to_messages(doc: Document) -> list[JsonObject]:
    """Chat messages with media: the clip as a path, the image as a PIL image, the order as in our own runner."""
    messages: list[JsonObject] = json.loads(doc["messages"])
    for message in messages:
        for part in message["content"]:
            if part["type"] == "video":
                # The model decodes clips itself, by its own number of frames.
                part["url"] = doc["video"]
            elif part["type"] == "image":
                with Image.open(doc["image"]) as file:
                    # Converted inside the block: the file is read lazily, and closed after it.
                    part["url"] = file.convert("RGB")
    return messages


def doc_to_target(doc: Document) -> str:
    """The gold letter."""
    return str(doc["gold"])


def process_results(doc: Document, results: Sequence[str]) -> dict[str, object]:
    """Metrics of one response, and what its line in the samples file should hold."""
    question = question_from_json(doc)
    # Our tasks ask once for each document.
    text = results[0]
    # lmms-eval hands on the completion alone, not what the model's template opened.
    parsed = parse_response(text, question.options, opened=assumed_opening(text))
    return sample_metrics(question, parsed, score(question, parsed)) | {"raw_text": text}


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are not None; None if all are."""
    # None: a number that this response does not have, such as the position of an unread answer.
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def clustered_standard_error(values: Sequence[tuple[float, str]]) -> float | None:
    """Standard error of the accuracy, questions of one video being one cluster: sqrt(deff x p (1 - p) / n).

    lmms-eval computes its own only from dictionaries, which its groups do not take.

    Args:
        values: (correct as 0.0 or 1.0, video_id) of each question.
    """
    if not values:
        return None
    # Questions of one video are no independent draws.
    correct, clusters = [value[0] for value in values], [value[1] for value in values]
    share = sum(correct) / len(correct)
    return math.sqrt(design_effect(correct, clusters) * share * (1 - share) / len(correct))


def pooled_mean(means: Sequence[float | None], sizes: Sequence[int], weight_by_size: bool) -> float | None:
    """The group's number from those of its tasks: weighted by questions, tasks that have none left out.

    Raises:
        ValueError: weight_by_size is off; the mean of the levels' means is not the benchmark's accuracy.
    """
    if not weight_by_size:
        raise ValueError("seedbench_r1: a group's mean is weighted by questions; set weight_by_size: true")
    known = [(mean, size) for mean, size in zip(means, sizes, strict=True) if mean is not None]
    total = sum(size for _, size in known)
    return sum(mean * size for mean, size in known) / total if total else None
