"""What Every Eval Ever 0.3.0 asks of its two files, written down from its JSON schemas for the fields that we use.

Stricter than the original in one way: a field that is not named here is an error, so that a misspelt one shows. The
original is used as well where it is installed (docs/export.md).
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

TEXT, NUMBER, WHOLE, YES_NO = ({"type": kind} for kind in ("string", "number", "integer", "boolean"))
TEXTS = {"type": "array", "items": TEXT}
DETAILS = {"type": "object", "additionalProperties": TEXT}
UUID4 = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def closed(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
        "additionalProperties": False,
    }


def one_of(*values: str) -> dict[str, Any]:
    return {"enum": list(values)}


MODEL_DETAILS = {
    "type": "object",
    "properties": {
        "deployment_type": one_of("self_deployed", "externally_managed", "unknown"),
        "model_availability": one_of("open_weights", "closed_weights", "unknown"),
    },
    "required": ["deployment_type", "model_availability"],
    "additionalProperties": TEXT,
}
MODEL = closed(
    {"name": TEXT, "id": TEXT, "additional_details": MODEL_DETAILS},
    developer=TEXT,
    inference_engine=closed({"name": TEXT}, version=TEXT),
)
SOURCE_DATA = {
    "oneOf": [
        closed(
            {"dataset_name": TEXT, "source_type": {"const": "hf_dataset"}},
            hf_repo=TEXT,
            hf_split=TEXT,
            samples_number=WHOLE,
            additional_details=DETAILS,
        ),
        closed({"dataset_name": TEXT, "source_type": {"const": "other"}}, additional_details=DETAILS),
    ]
}
METRIC = closed(
    {"lower_is_better": YES_NO, "score_type": {"const": "continuous"}, "min_score": NUMBER, "max_score": NUMBER},
    evaluation_description=TEXT,
    metric_id=TEXT,
    metric_name=TEXT,
    metric_kind=TEXT,
    metric_unit=TEXT,
    llm_scoring=closed(
        {"judges": {"type": "array", "minItems": 1, "items": closed({"model_info": MODEL})}, "input_prompt": TEXT}
    ),
    additional_details=DETAILS,
)
INTERVAL = closed(
    {"lower": NUMBER, "upper": NUMBER}, confidence_level={"type": "number", "minimum": 0, "maximum": 1}, method=TEXT
)
SCORE = closed(
    {"score": NUMBER},
    details=DETAILS,
    uncertainty=closed(
        {}, standard_error=closed({"value": NUMBER}, method=TEXT), confidence_interval=INTERVAL, num_samples=WHOLE
    ),
)
GENERATION = closed(
    {},
    generation_args=closed(
        {},
        temperature=NUMBER,
        top_p=NUMBER,
        top_k=NUMBER,
        max_tokens={"type": "integer", "minimum": 1},
        execution_command=TEXT,
        reasoning=YES_NO,
        prompt_template=TEXT,
    ),
    additional_details=DETAILS,
)
AGGREGATE = closed(
    {
        "schema_version": TEXT,
        "evaluation_id": TEXT,
        "retrieved_timestamp": {"type": "string", "pattern": "^[0-9]+$"},
        "source_metadata": closed(
            {
                "source_type": one_of("documentation", "evaluation_run"),
                "source_organization_name": TEXT,
                "evaluator_relationship": one_of("first_party", "third_party", "collaborative", "other"),
            },
            source_name=TEXT,
            additional_details=DETAILS,
        ),
        "eval_library": closed({"name": TEXT, "version": TEXT}, additional_details=DETAILS),
        "model_info": MODEL,
        "evaluation_results": {
            "type": "array",
            "items": closed(
                {"evaluation_name": TEXT, "source_data": SOURCE_DATA, "metric_config": METRIC, "score_details": SCORE},
                evaluation_result_id=TEXT,
                evaluation_timestamp=TEXT,
                generation_config=GENERATION,
            ),
        },
    },
    evaluation_timestamp=TEXT,
    detailed_evaluation_results=closed(
        {
            "format": {"const": "jsonl"},
            "file_path": {"type": "string", "pattern": rf"^data/[^/]+/[^/]+/[^/]+/{UUID4}_samples\.jsonl$"},
        },
        hash_algorithm=one_of("sha256", "md5"),
        checksum=TEXT,
        total_rows=WHOLE,
    ),
)
INSTANCE = closed(
    {
        "schema_version": TEXT,
        "evaluation_id": TEXT,
        "model_id": TEXT,
        "evaluation_name": TEXT,
        "sample_id": TEXT,
        "interaction_type": {"const": "single_turn"},
        "input": closed({"raw": TEXT, "reference": TEXTS}, choices=TEXTS),
        "output": closed({"raw": TEXTS}, reasoning_trace={"anyOf": [TEXTS, {"type": "null"}]}),
        "answer_attribution": {
            "type": "array",
            "items": closed(
                {
                    "turn_idx": {"type": "integer", "minimum": 0},
                    "source": TEXT,
                    "extracted_value": TEXT,
                    "extraction_method": TEXT,
                    "is_terminal": YES_NO,
                }
            ),
        },
        "evaluation": closed({"score": NUMBER, "is_correct": YES_NO}),
    },
    evaluation_result_id=TEXT,
    sample_hash=TEXT,
    token_usage=closed({"input_tokens": WHOLE, "output_tokens": WHOLE, "total_tokens": WHOLE}),
    performance=closed({}, latency_ms={"type": "number", "minimum": 0}),
    error=TEXT,
    metadata=DETAILS,
)


def originals() -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The project's own two schemas, read without importing it; None where the package is not installed."""
    found = importlib.util.find_spec("every_eval_ever")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "schemas"
    names = ("eval.schema.json", "instance_level_eval.schema.json")
    aggregate, instance = (json.loads((folder / name).read_text(encoding="utf-8")) for name in names)
    return aggregate, instance
