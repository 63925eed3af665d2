"""The models that probes ask: the run's own, as its manifest says it was asked; another one; and text models."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seedbench_r1.backends import VIEWS, open_backend
from seedbench_r1.backends.base import Backend, Scorer
from seedbench_r1.config import OPENAI_BASE_URL, EvalConfig, api_key, validate
from seedbench_r1.engines.local import open_loader
from seedbench_r1.errors import ConfigError
from seedbench_r1.judges.probe_config import BACKENDS, ProbeConfig, ProbeSettings
from seedbench_r1.judges.probes import text_prompt
from seedbench_r1.media.loader import FrameLoader
from seedbench_r1.models.checkpoint import Checkpoint, inspect_model
from seedbench_r1.models.fingerprint import small_file_hashes
from seedbench_r1.models.locate import find_folder
from seedbench_r1.runs.directory import Run
from seedbench_r1.types import SamplingConfig, Template, VideoConfig

_DECODING = ("workers", "decode_timeout_s", "frame_cache", "frame_cache_gb")


@dataclass(frozen=True, slots=True)
class ProbedModels:
    """See judges.probing.Models. Checked when it is made, loaded when it is asked for."""

    settings: ProbeSettings

    @property
    def _config(self) -> ProbeConfig:
        return self.settings.config

    @property
    def under_id(self) -> str | None:
        """What stands for --under in a probe id: its name and the first signs of its fingerprint."""
        if self._config.under is None:
            return None
        info = _inspect(self._config.under, {}).info
        return f"{info.name}-{info.fingerprint[:8]}"

    @property
    def text_id(self) -> str | None:
        """What stands for --text-model in a probe id: its name, and a hash of prompt, server or files."""
        name = self._config.text_model
        if name is None:
            return None
        kind, _, model = name.partition(":")
        server = (self._config.text_base_url or OPENAI_BASE_URL) if kind == "openai" else None
        files = small_file_hashes({"": find_folder(model, None)}) if kind == "local" else None
        digest = hashlib.sha256(json.dumps([text_prompt(), server, files]).encode()).hexdigest()[:8]
        return f"{kind}:{Path(model).name}-{digest}"

    def check_own(self, run: Run) -> EvalConfig:
        """The settings under which the run's model is asked again.

        Raises ConfigError if it is not where it was, or has other bytes than those that answered.
        """
        loading = dict(self.settings.loading)
        model = self._config.model or run.manifest.model.path
        if self._config.model is None and "@" in model:
            model, _, revision = model.rpartition("@")
            loading.setdefault("revision", revision)
        checkpoint = _inspect(model, loading, run.path.parent / VIEWS)
        known, found = run.manifest.model, checkpoint.info
        changed = [name for name, digest in known.files.items() if found.files.get(name, digest) != digest]
        if found.fingerprint != known.fingerprint or changed:
            what = f"other {changed[0]}" if changed else "other weights"
            raise ConfigError(
                f"The model at {model} is not the one that answered in {run.path} ({what}): its probabilities would be "
                f"another model's. Fix: --model PATH of that checkpoint (and --base-model, --processor, as for eval)."
            )
        return self._settings_for(run, checkpoint, loading)

    def check_under(self, run: Run) -> EvalConfig:
        """The settings under which --under is asked. Raises ConfigError if it needs frames of another size."""
        assert self._config.under is not None
        checkpoint = _inspect(self._config.under, {})
        config = self._settings_for(run, checkpoint, {**self.settings.loading, "base_model": None, "revision": None})
        if config.video.size_multiple % checkpoint.size_multiple or config.video.preprocess != checkpoint.preprocess:
            raise ConfigError(
                f"--under {self._config.under} takes frames on another grid than the run's model: it would see other "
                f"pixels. Fix: --under a model of the same family."
            )
        return config

    def open_loader(self, run: Run) -> FrameLoader:
        """Decoding workers for the run's media. Of an import, whose settings nobody knows, they are given nothing."""
        settings = run.manifest.settings
        loading = {name: self.settings.loading[name] for name in _DECODING if name in self.settings.loading}
        config = EvalConfig(
            video=VideoConfig() if settings is None else settings.video,
            sampling=SamplingConfig(),
            template=Template({}),
            model="",
            data_root=Path(),
        )
        loader = open_loader(replace(config, **loading))
        assert isinstance(loader, FrameLoader)
        return loader

    def own(self, run: Run) -> Scorer:
        return _scorer(self.check_own(run))

    def under(self, run: Run) -> Scorer:
        return _scorer(self.check_under(run))

    def text(self) -> Backend:
        """Raises ConfigError if the model cannot be loaded, or there is no key."""
        kind, _, model = str(self._config.text_model).partition(":")
        if kind == "local":
            from seedbench_r1.backends.text_model import TextModelBackend

            return TextModelBackend(
                str(find_folder(model, None)), batch_size=self.settings.loading.get("batch_size", 8)
            )
        from seedbench_r1.api.client import ChatClient
        from seedbench_r1.backends.openai import OpenAIBackend

        base_url = self._config.text_base_url
        return OpenAIBackend(model, ChatClient(base_url or OPENAI_BASE_URL, api_key(base_url)))

    def _settings_for(self, run: Run, checkpoint: Checkpoint, loading: dict[str, Any]) -> EvalConfig:
        base = None if checkpoint.base_folder is None else str(checkpoint.base_folder)
        loading = {**loading, "base_model": base, "revision": None, "processor": None}
        return validate(self._eval_config(run, str(checkpoint.folder), loading))

    def _eval_config(self, run: Run, model: str, loading: dict[str, Any]) -> EvalConfig:
        settings = run.manifest.settings
        assert settings is not None
        backend = self._config.backend or run.manifest.backend
        config = EvalConfig(
            video=settings.video,
            sampling=settings.sampling,
            template=settings.template,
            model=model,
            data_root=Path(),
            backend=backend if backend in BACKENDS else "transformers",
            dtype=run.manifest.dtype if run.manifest.backend in BACKENDS else "auto",
        )
        return replace(config, **loading)


def _inspect(model: str, loading: dict[str, Any], views: Path | None = None) -> Checkpoint:
    return inspect_model(
        model,
        base_model=loading.get("base_model"),
        revision=loading.get("revision"),
        processor=loading.get("processor"),
        views=views,
        trust_remote_code=loading.get("trust_remote_code", False),
    )


def _scorer(config: EvalConfig) -> Scorer:
    backend = open_backend(config)
    if not isinstance(backend, Scorer):
        raise ConfigError(f"Backend {config.backend} cannot continue a prefix. Fix: --backend transformers or vllm.")
    return backend
