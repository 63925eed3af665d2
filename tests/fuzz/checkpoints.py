"""A checkpoint's small files: inspected, opened and rendered, or refused in words before anything is decoded."""

from __future__ import annotations

import json
import random
import shutil
from functools import cache
from pathlib import Path

from seedbench_r1.config import resolve_eval_config
from seedbench_r1.demo.tiny_model import FAMILIES
from seedbench_r1.engines.plan import fit_to_model
from seedbench_r1.engines.preflight import check_prompts
from seedbench_r1.errors import SeedBenchError
from seedbench_r1.models.checkpoint import inspect_model
from seedbench_r1.runs.training_snapshot import take_snapshot
from seedbench_r1.suites.own import trained_on
from seedbench_r1.types import Question
from tests.fuzz import Input
from tests.fuzz.mutate import dumped, encoded, mutated, mutated_json
from tests.tiny_models import make_tiny

QUESTION = Question("L1/1", "L1", "What?", ("a", "b", "c", "d"), "A", Path("v.mp4"), Path("i.png"), "c", task_goal="g")
EXTRA: dict[str, object] = {
    "training.json": {"schema": "x", "step": 3, "algorithm": "grpo", "identity": {"data_sha256": "0"}, "config": {}},
    "trainer_state.json": {"global_step": 3, "log_history": [{"step": 1, "reward": 0.5, "loss": 1.0}]},
    "adapter_config.json": {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "base", "target_modules": ["q"]},
    "model.safetensors.index.json": {"metadata": {}, "weight_map": {"a": "model.safetensors"}},
    "chat_template.json": {"chat_template": "{% for m in messages %}{{ m.role }}{% endfor %}"},
    "special_tokens_map.json": {"eos_token": "<|im_end|>"},
    "added_tokens.json": {"<|im_end|>": 3},
}
TEMPLATES = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(9) %}{% endfor %}{% endfor %}{% endfor %}",
    "{{ 'x' * 30000000000 }}",
    "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "{{ 'x' * 900000000 }}",
    "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ '%09999999999d' | format(1) }}",
    "{{ 9 ** 9 ** 9 }}",
    "{{ messages | tojson }}",
    "{% for m in messages %}{{ m.content }}{% endfor %}",
    "{{ raise_exception('no') }}",
    "{{ ''.__class__.__mro__ }}",
    "{% if",
)


class Checkpoints:
    """One small file of a tiny checkpoint is mutated, or stands where there was none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cache  # noqa: B019  # a few of them
    def _seeds(self, family: str, *, old: bool) -> dict[str, bytes]:
        """A checkpoint's files; old: with its template in chat_template.json, as Qwen2.5-VL was released."""
        if not (self._folder / family).exists():
            make_tiny(self._folder / family, family)
        found = {path.name: path.read_bytes() for path in (self._folder / family).iterdir()}
        if old:
            template = {"chat_template": found.pop("chat_template.jinja").decode()}
            found["chat_template.json"] = json.dumps(template).encode()
        return found

    def make(self, rng: random.Random) -> Input:
        family = rng.choice(list(FAMILIES))
        seeds = self._seeds(family, old=rng.random() < 0.5)
        name = rng.choice([*seeds, *EXTRA])
        others = [data for data in seeds.values() if len(data) < 100_000]
        return f"{family}@{name}", self._mutated(rng, name, seeds, others)

    def _mutated(self, rng: random.Random, name: str, seeds: dict[str, bytes], others: list[bytes]) -> bytes:
        data = seeds.get(name) or json.dumps(EXTRA[name]).encode()
        if name == "model.safetensors":
            size = int.from_bytes(data[:8], "little")
            header = dumped(rng, mutated_json(rng, json.loads(data[8 : 8 + size]))).encode("utf-8", "backslashreplace")
            header = rng.choice((header, mutated(rng, data[8 : 8 + size], others)))
            stated = rng.choice((len(header), len(header), len(header), rng.getrandbits(64)))
            return stated.to_bytes(8, "little") + header + data[8 + size :]
        if name.endswith(".jinja"):
            return encoded(rng, rng.choice(TEMPLATES), others) if rng.random() < 0.3 else mutated(rng, data, others)
        value = json.loads(data)
        if "chat_template" in value and rng.random() < 0.3:
            return json.dumps(value | {"chat_template": rng.choice(TEMPLATES)}).encode()
        return encoded(rng, dumped(rng, mutated_json(rng, value)), others)

    def check(self, name: str, data: bytes) -> str:
        family, _, file = name.partition("@")
        path = self._folder / "checkpoint"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        for kept, content in self._seeds(family, old=file == "chat_template.json").items():
            (path / kept).write_bytes(content)
        (path / file).write_bytes(data)
        try:
            checkpoint = inspect_model(str(path), base_model=str(self._folder / family))
            took = "opened"
            take_snapshot(path, [QUESTION], {"L1": "0"}, trained_on)
        except SeedBenchError as error:
            return refused(error, path)
        try:
            options = {"model": str(path), "data_root": self._folder}
            config = resolve_eval_config(options, environ={}, working_dir=self._folder)
            check_prompts(fit_to_model(config, checkpoint), checkpoint, [QUESTION])
        except SeedBenchError as error:
            return refused(error, path) + " by preflight"
        return took

    def close(self) -> None:
        """Nothing was started."""


def refused(error: SeedBenchError, path: Path) -> str:
    """Its message is to be read."""
    assert type(error) is not SeedBenchError, error
    text = str(error)
    assert len(text) < 2000 + text.count(str(path)) * len(str(path)), text[:300]
    return "refused"
