"""Where a row comes from, as text to be shown: nothing secret, no home folder, the host only as its hash."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict

from leaderboards.outcomes import Measured
from seedbench_r1.prompts import template_sha
from seedbench_r1.runs.training_snapshot import TrainingSnapshot

# Home folders name people.
_HOME = re.compile(r"/(?:home|Users)/[^/\s]+|/root(?=/|\s|$)")
# --api-key VALUE and TOKEN=VALUE: the name stays, the value goes.
_SECRET = re.compile(r"(?i)(--[\w-]*(?:key|token|secret|password)(?:=|\s+)|\b\w*(?:key|token|secret|password)=)\S+")
# Keys of OpenAI and of the Hub by their form, wherever they are.
_BEARER = re.compile(r"\b(sk-|hf_)[A-Za-z0-9_-]{8,}")


def provenance_of(measured: Measured) -> dict[str, str]:
    """Name -> text, in the order to be shown. Unknown things are left out."""
    manifest = measured.run.manifest
    model = manifest.model
    failures = Counter(record.failure.kind for record in measured.run.records.values() if record.failure is not None)
    settings = manifest.settings
    # In the order a reader asks: which model, asked how, on which data, by which software.
    fields: dict[str, object] = {
        "model": model.path,
        "base model": model.base_model,
        "architecture": model.architecture,
        "weights sha256": manifest.weights_sha256,
        "fingerprint": model.fingerprint,
        "picked as the best of": model.selected_from_k,
        "training": None if measured.snapshot is None else measured.snapshot.training_id,
        "seen in training": _overlap(measured.snapshot),
        "protocol": f"{manifest.protocol} ({manifest.protocol_id})",
        "prompt sha256": None if settings is None else template_sha(settings.template),
        "system prompt": None if settings is None else settings.template.system,
        "frames": "unknown" if settings is None else _settings(asdict(settings.video)),
        "sampling": "unknown" if settings is None else _settings(asdict(settings.sampling)),
        "parser version": manifest.parser_version,
        "transport": _settings(manifest.transport) if manifest.transport else None,
    }
    fields |= {f"annotations {level} sha256": digest for level, digest in sorted(manifest.dataset_hash.items())}
    fields |= {
        "backend": manifest.backend,
        "dtype": manifest.dtype,
        "seed": manifest.seed,
        "versions": _settings(manifest.versions),
        "machine (hashed)": manifest.machine,
        "command": manifest.command,
        "started": manifest.created_utc,
        "finished": manifest.completed_utc,
        "judge": measured.judge_id,
        "failures": _settings(dict(sorted(failures.items()))) if failures else None,
        "run": measured.run_id,
    }
    # What is not known is left out: an empty field would read as "none".
    return {name: shareable(str(value)) for name, value in fields.items() if value not in (None, "")}


def shareable(text: str) -> str:
    """The text without home folders, and without the values of options that are named like secrets."""
    return _BEARER.sub(r"\1***", _SECRET.sub(r"\1***", _HOME.sub("~", text)))


def _overlap(snapshot: TrainingSnapshot | None) -> str | None:
    """How many of the run's questions are in the training files, and how far that is known."""
    if snapshot is None or snapshot.overlap is None:
        return None
    overlap = snapshot.overlap
    unknown = f"; {overlap.unknown} training files could not be compared" if overlap.unknown else ""
    # No file to compare with proves nothing, so it must not read as "0 questions seen".
    if not overlap.files:
        return f"not known{unknown}"
    files = "the training file" if overlap.files == 1 else f"{overlap.files} training files"
    return f"{overlap.shared} of {overlap.checked} questions are in {files}{unknown}"


def _settings(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
