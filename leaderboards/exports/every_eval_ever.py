"""Export to Every Eval Ever: an aggregate JSON a run and a JSONL of its answers, laid out as their data store is.

The format is that of github.com/evaleval/every_eval_ever, schema 0.3.0 (MIT). Every value under additional_details and
metadata is a string there.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from leaderboards.exports.common import DATASET, Exported, Share, caveat, hub_id, json_file, json_line, shares
from leaderboards.exports.every_eval_ever_samples import SCHEMA_VERSION, sample_lines
from leaderboards.provenance import shareable
from leaderboards.published import SIZES, PublishedCell, PublishedRow
from seedbench_r1.prompts import template_sha
from seedbench_r1.runs.directory import slug
from seedbench_r1.types import DOMAINS

COLLECTION = "seed-bench-r1"
UNKNOWN = "unknown"
RELATIONSHIPS = ("first_party", "third_party", "collaborative", "other")

DESCRIPTIONS = {
    "accuracy": "Share of correct answers; unparsed and truncated answers are wrong.",
    "reasoning_consistency": "Share of judged answers whose reasoning supports the answer given, right or wrong. Not "
    "agreement between repeated generations.",
    "sound_accuracy": "Share of judged answers that are correct and whose reasoning supports them.",
}


@dataclass(frozen=True, slots=True)
class Source:
    """Who says so: asked for by the format, known to nobody but the exporting person."""

    organization: str = UNKNOWN
    relationship: str = "other"  # of the evaluator to the model: one of RELATIONSHIPS


def every_eval_ever_files(
    exported: Exported, out: Path, *, source: Source, model_id: str | None = None, now_utc: str
) -> dict[Path, str]:
    """The two files of a run, by path: out/data/seed-bench-r1/<developer>/<model>/<uuid>.json and ..._samples.jsonl.

    Args:
        exported: the run, by itself.
        out: folder below which the files belong; nothing is written here.
        source: who evaluated, and how they relate to the model.
        model_id: org/name; by default the Hub's id, if the run was made from one, else local/<name>.
        now_utc: the time of the export, ISO 8601.

    The uuid follows from the run and the judge, so that exporting again replaces.
    """
    model = model_id or hub_id(exported.manifest) or f"local/{slug(exported.row.model)}"
    # Shared by both files: the samples point to the aggregate by it.
    evaluation_id = f"{COLLECTION}-{exported.manifest.protocol_id}/{model}/{_epoch(now_utc)}"
    # Before the aggregate, which states their number and their hash.
    lines = sample_lines(exported, evaluation_id, model)
    samples = "".join(json_line(line) for line in lines)
    # Named by what was measured, not by when: exporting again replaces.
    path = _path(exported.row.run_id, exported.row.model_sha, exported.row.judge_id or "", model=model)
    samples_path = path.with_name(f"{path.stem}_samples.jsonl")
    log = _aggregate(exported, model, source, evaluation_id, now_utc)
    log["detailed_evaluation_results"] = {
        "format": "jsonl",
        "file_path": samples_path.as_posix(),
        "hash_algorithm": "sha256",
        "checksum": hashlib.sha256(samples.encode()).hexdigest(),
        "total_rows": len(lines),
    }
    return {out / path: json_file(log), out / samples_path: samples}


def reported_files(rows: tuple[PublishedRow, ...], out: Path, *, now_utc: str) -> dict[Path, str]:
    """The papers' rows, an aggregate JSON each, of source type `documentation`: percentages as printed, no samples."""
    files = {}
    for row in rows:
        # A row with an average alone has no score of a level to state.
        if row.accuracy:
            model = f"reported/{slug(row.row_id)}"
            files[out / _path("reported", row.row_id, model=model)] = json_file(_reported(row, model, now_utc))
    return files


def _aggregate(exported: Exported, model: str, source: Source, evaluation_id: str, now_utc: str) -> dict[str, object]:
    manifest, row = exported.manifest, exported.row
    evaluated = manifest.completed_utc or manifest.updated_utc
    details = {
        "run": row.run_id,
        "protocol": manifest.protocol,
        "protocol_id": manifest.protocol_id,
        "status": row.status,
        "flags": "; ".join(row.flags),
        # With every number: whoever copies one of them copies this.
        "caveat": caveat(exported),
        "judge": row.judge_id or "",
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": evaluation_id,
        # When the answers were made; the next one is when this file was.
        "evaluation_timestamp": evaluated,
        "retrieved_timestamp": _epoch(now_utc),
        "source_metadata": {
            "source_name": "seedbench-r1",
            "source_type": "evaluation_run",
            "source_organization_name": source.organization,
            "evaluator_relationship": source.relationship,
            "additional_details": _strings(details),
        },
        "eval_library": {
            "name": "seedbench-r1",
            "version": manifest.versions.get("seedbench-r1", UNKNOWN),
            "additional_details": _strings({"commit": row.commit, "parser_version": manifest.parser_version}),
        },
        "model_info": _model_info(exported, model),
        "evaluation_results": [_result(exported, share) for share in shares(exported)],
    }


def _model_info(exported: Exported, model: str) -> dict[str, object]:
    manifest = exported.manifest
    # Behind a server nobody can say what runs there.
    served = manifest.backend == "openai" or manifest.backend.startswith("import:")
    engine = {"name": manifest.backend}
    if manifest.backend in manifest.versions:
        # Only known for a backend that is a library.
        engine["version"] = manifest.versions[manifest.backend]
    known = {
        "path": manifest.model.path,
        "base_model": manifest.model.base_model,
        "training_algorithm": manifest.model.algorithm,
        "training_step": manifest.model.step,
        "selected_from_k": manifest.model.selected_from_k,
        "architecture": manifest.model.architecture,
        "weights_sha256": manifest.weights_sha256,
        "fingerprint": manifest.model.fingerprint,
        "dtype": manifest.dtype,
        "machine_hash": manifest.machine,
    }
    return {
        "name": manifest.model.name,
        "id": model,
        "developer": model.partition("/")[0],
        "inference_engine": engine,
        "additional_details": _strings(known) | _availability(here=not served),
    }


def _result(exported: Exported, share: Share) -> dict[str, object]:
    row = exported.row
    details = {
        "answered": f"{share.answered} of {share.n}",
        "design_effect": share.deff,
        "videos": share.n_clusters,
        "caveat": caveat(exported),
    }
    interval: dict[str, object] = {"lower": share.lo, "upper": share.hi}
    if share.complete:  # else these are bounds, of which no level of confidence can be stated
        interval["confidence_level"] = 0.95
    uncertainty: dict[str, object] = {
        "confidence_interval": interval | {"method": share.method},
        "num_samples": share.n,
    }
    if share.complete:
        method = "binomial at n / design effect, clustered by video"
        uncertainty["standard_error"] = {"value": share.se, "method": method}
    metric = _metric(share.metric, "proportion", 1.0)
    # A rate without its judge cannot be compared with any other.
    if share.metric != "accuracy":
        metric |= _judge(row.judge_id or "")
    return {
        "evaluation_result_id": result_id(share.group, share.metric),
        "evaluation_name": _evaluation_name(share.group),
        "evaluation_timestamp": exported.manifest.completed_utc or exported.manifest.updated_utc,
        "source_data": _source_data(exported, share.level, share.n),
        "metric_config": metric,
        "score_details": {"score": share.value, "details": _strings(details), "uncertainty": uncertainty},
        "generation_config": _generation_config(exported),
    }


def result_id(group: str, metric: str) -> str:
    """ "L3/Work/accuracy": names one number of a run."""
    return f"L3/{group}/{metric}" if group in DOMAINS else f"{group}/{metric}"


def _evaluation_name(group: str) -> str:
    return f"SEED-Bench-R1 L3 {group}" if group in DOMAINS else f"SEED-Bench-R1 {group}"


def _metric(metric: str, unit: str, highest: float) -> dict[str, object]:
    return {
        "evaluation_description": DESCRIPTIONS[metric],
        "metric_id": "accuracy" if metric == "accuracy" else f"seed_bench_r1.{metric}",
        "metric_name": metric,
        "metric_kind": metric,
        "metric_unit": unit,
        "lower_is_better": False,
        "score_type": "continuous",
        "min_score": 0.0,
        "max_score": highest,
    }


def _judge(judge_id: str) -> dict[str, object]:
    """llm_scoring for a model's verdicts; the rules are no language model."""
    details: dict[str, object] = {"additional_details": {"judge": judge_id}}
    kind, _, rest = judge_id.partition(":")
    # "rules" and "exact" are programs.
    if kind not in ("openai", "local"):
        return details
    # The id ends in a hash over wording, votes and sampling; before it is the model's name.
    name = rest.rpartition("/")[0]
    judge = {
        "name": name,
        "id": name,
        "additional_details": _availability(here=kind == "local"),
    }
    prompt = "Not stored with the verdicts. The judge id ends in a hash over the wording, the votes and the sampling."
    return details | {"llm_scoring": {"judges": [{"model_info": judge}], "input_prompt": prompt}}


def _source_data(exported: Exported, level: str, n: int) -> dict[str, object]:
    sha = exported.manifest.dataset_hash.get(level, "")
    # Questions in the same format are not the benchmark.
    if not exported.is_official:
        note = "questions in SEED-Bench-R1's format, but not as many as the data set has"
        details = _strings({"annotations_sha256": sha, "level": level, "note": note})
        return {"dataset_name": "custom", "source_type": "other", "additional_details": details}
    return {
        "dataset_name": "SEED-Bench-R1",
        "source_type": "hf_dataset",
        "hf_repo": DATASET,
        "hf_split": "val",
        "samples_number": n,
        "additional_details": _strings({"annotations_sha256": sha, "level": level}),
    }


def _generation_config(exported: Exported) -> dict[str, object]:
    manifest, settings = exported.manifest, exported.settings
    sampling = settings.sampling
    details: dict[str, object] = {"repetition_penalty": sampling.repetition_penalty, "seed": manifest.seed}
    # Frames and pixels change scores, and the schema has no fields for them.
    details |= {f"video_{name}": value for name, value in asdict(settings.video).items()}
    details |= {"prompt_sha256": template_sha(settings.template), "system_prompt": settings.template.system}
    return {
        "generation_args": {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "max_tokens": sampling.max_new_tokens,
            "execution_command": shareable(manifest.command),
            # Whether the prompt asks for it, not whether the model does it.
            "reasoning": "<think>" in settings.template.wording["with_video"],
            "prompt_template": settings.template.wording["with_video"],
        },
        "additional_details": _strings(details),
    }


def _reported(row: PublishedRow, model: str, now_utc: str) -> dict[str, object]:
    details = {
        "status": "reported by a paper, not measured here; never ranked next to measured runs",
        "source": row.source,
        "table": row.table,
        "train_data": row.train_data,
        "frames": row.frames,
        "flags": "; ".join(row.flags),
        "note": row.note,
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"{COLLECTION}/{model}/{_epoch(now_utc)}",
        "retrieved_timestamp": _epoch(now_utc),
        "source_metadata": {
            "source_name": f"{row.source}, {row.table}",
            "source_type": "documentation",
            "source_organization_name": f"authors of {row.source}",
            "evaluator_relationship": "other",
            "additional_details": _strings(details),
        },
        "eval_library": {"name": UNKNOWN, "version": UNKNOWN},
        "model_info": {
            "name": f"{row.method}, {row.base_model}" if row.base_model else row.method,
            "id": model,
            "developer": "reported",
            "additional_details": _strings({"base_model": row.base_model}) | _availability(here=False),
        },
        "evaluation_results": [_reported_result(group, cell) for group, cell in row.accuracy.items()],
    }


def _reported_result(group: str, cell: PublishedCell) -> dict[str, object]:
    # As printed: a float would claim digits that the paper does not.
    details: dict[str, object] = {"printed": cell.printed}
    score: dict[str, object] = {"score": float(cell.printed)}
    # No count of correct answers gives this percentage: stated, not corrected.
    if cell.lo is None or cell.hi is None:
        details["impossible"] = f"no count of {SIZES[group]} questions gives this percentage"
    else:
        interval = {"lower": 100 * cell.lo, "upper": 100 * cell.hi, "confidence_level": 0.95}
        method = "wilson from the printed percentage, not clustered"
        score["uncertainty"] = {"confidence_interval": interval | {"method": method}, "num_samples": SIZES[group]}
    return {
        "evaluation_result_id": result_id(group, "accuracy"),
        "evaluation_name": _evaluation_name(group),
        "source_data": {"dataset_name": "SEED-Bench-R1", "source_type": "hf_dataset", "hf_repo": DATASET},
        "metric_config": _metric("accuracy", "percent", 100.0),
        "score_details": score | {"details": _strings(details)},
    }


def _path(*identity: str, model: str) -> Path:
    """data/seed-bench-r1/<developer>/<model>/<uuid>.json; the uuid is a hash of the identity and the model's id."""
    digest = hashlib.sha256("\n".join((*identity, model)).encode("utf-8", "replace")).digest()
    developer, _, name = model.partition("/")
    # Version 4 by form only: the bits come from a hash.
    return Path("data", COLLECTION, developer, name, f"{uuid.UUID(bytes=digest[:16], version=4)}.json")


def _availability(*, here: bool) -> dict[str, str]:
    # Of weights on a disk nobody can say whether they are public.
    return {"deployment_type": "self_deployed" if here else UNKNOWN, "model_availability": UNKNOWN}


def _strings(values: Mapping[str, object]) -> dict[str, str]:
    """What is known, as shareable text."""
    return {name: shareable(str(value)) for name, value in values.items() if value not in (None, "")}


def _epoch(iso: str) -> str:
    return str(int(datetime.strptime(iso, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()))
