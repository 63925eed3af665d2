"""Checkpoint folders as people's trainers, copies and hubs leave them: each is loaded, or answered in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from seedbench_r1.backends.loading import load_model
from seedbench_r1.config import resolve_eval_config
from seedbench_r1.demo.models import shipped_model
from seedbench_r1.engines.plan import plan
from seedbench_r1.errors import ConfigError
from seedbench_r1.models.checkpoint import inspect_model
from seedbench_r1.models.locate import natural, with_processor
from seedbench_r1.models.qwen_vl import load_processor
from tests.command import cli
from tests.tiny_models import FAMILIES, tiny_checkpoint


@pytest.fixture
def model(tmp_path) -> Path:
    return Path(shutil.copytree(shipped_model("sft"), tmp_path / "model"))


def planned(model: Path, data_root: Path, tmp_path: Path, **changes):
    given = {"model": str(model), "data_root": data_root, "runs_dir": tmp_path / "runs"} | changes
    return plan(resolve_eval_config(given, environ={}, working_dir=tmp_path))


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# ---- what is copied


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def in_shards(model: Path, *, absent: bool) -> None:
    weights = safetensors.torch.load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = {name: f"model-0000{place % 2 + 1}-of-00002.safetensors" for place, name in enumerate(weights)}
    for file in set(names.values()):
        part = {name: value for name, value in weights.items() if names[name] == file}
        safetensors.torch.save_file(part, model / file, metadata={"format": "pt"})
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names, "metadata": {}}))
    if absent:
        (model / "model-00002-of-00002.safetensors").unlink()


def whole_and_in_shards(model: Path) -> None:
    data = (model / "model.safetensors").read_bytes()
    in_shards(model, absent=False)
    (model / "model.safetensors").write_bytes(data)


def template_as_json(model: Path, *, more: str) -> None:
    template = (model / "chat_template.jinja").read_text() + more
    (model / "chat_template.json").write_text(json.dumps({"chat_template": template}))


COPIES = {
    "whole and in shards": (
        whole_and_in_shards,
        r"holds model.safetensors and model.safetensors.index.json, which names other files: two models. Fix: move",
    ),
    "an adapter next to": (
        lambda m: shutil.copy(m / "model.safetensors", m / "adapter_model.safetensors"),
        r"model.safetensors and adapter_model.safetensors, without adapter_config.json",
    ),
    "two templates": (
        lambda m: template_as_json(m, more="{{ 'think' }}"),
        r"chat_template.json and chat_template.jinja differ.*--processor BASE_MODEL",
    ),
    "cut": (lambda m: cut(m / "model.safetensors"), r"model.safetensors is not whole: \d+ of \d+ bytes"),
    "empty": (lambda m: (m / "model.safetensors").write_bytes(b""), "is a Git LFS pointer, not the file"),
    "pointer": (
        lambda m: (m / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 3\n"),
        "Git LFS pointer",
    ),
    "zeros": (lambda m: (m / "model.safetensors").write_bytes(bytes(5000)), r"model.safetensors is cut off|not whole"),
    "html": (lambda m: (m / "model.safetensors").write_text("<html>" * 100), "cut off, or no safetensors file"),
    "shard absent": (
        lambda m: in_shards(m, absent=True),
        "1 of 2 weight files are absent, first model-00002",
    ),
    "no weights": (lambda m: (m / "model.safetensors").unlink(), "No weight files"),
    "no config": (lambda m: (m / "config.json").unlink(), "no config.json, and no adapter_config.json"),
    "config cut": (lambda m: cut(m / "config.json"), "config.json cannot be read as JSON"),
    "config a list": (lambda m: (m / "config.json").write_text("[]"), "config.json is not a JSON object"),
    "config deep": (lambda m: (m / "config.json").write_text("[" * 100_000), "nested too deeply"),
    "no tokenizer": (
        lambda m: [path.unlink() for path in m.glob("tokenizer*")],
        "tokenizer of .* is not the model's.*--processor BASE_MODEL",
    ),
    "no processor": (
        lambda m: [path.unlink() for path in m.glob("*processor*")],
        "Cannot load.*--processor BASE",
    ),
    "no template": (lambda m: (m / "chat_template.jinja").unlink(), "has no chat template.*--processor BASE_MODEL"),
    "template cut": (lambda m: cut(m / "chat_template.jinja"), "chat template cannot render"),
    "template for text": (
        lambda m: (m / "chat_template.jinja").write_text("{{ messages[0]['content'] + 1 }}"),
        "chat template .*cannot render",
    ),
    "template without media": (
        lambda m: (m / "chat_template.jinja").write_text("user{% if add_generation_prompt %}assistant{% endif %}"),
        r"cannot render L1/\d+: the prompt has 0 image and 0 video placeholders",
    ),
    "template without the question": (
        lambda m: (m / "chat_template.jinja").write_text(
            (m / "chat_template.jinja")
            .read_text()
            .replace("part.text", "part.text[:20]")
            .replace("['text']", "['text'][:20]")
        ),
        r"leaves out what L1/\d+ asks",
    ),
    "template without an assistant": (
        lambda m: (m / "chat_template.jinja").write_text(
            (m / "chat_template.jinja").read_text().replace("add_generation_prompt", "false")
        ),
        "does not open the assistant's turn",
    ),
    "old tokenizer": (
        lambda m: (m / "tokenizer.json").write_bytes((tiny_checkpoint("qwen2_5_vl") / "tokenizer.json").read_bytes()),
        "is not the model's",
    ),
    "DeepSpeed": (
        lambda m: ((m / "model.safetensors").unlink(), (m / "global_step20").mkdir(), (m / "zero_to_fp32.py").touch()),
        "DeepSpeed's shards. Fix: python .*zero_to_fp32.py",
    ),
    "FSDP": (
        lambda m: (
            (m / "model.safetensors").unlink(),
            (m / "pytorch_model_fsdp_0").mkdir(),
            (m / "pytorch_model_fsdp_0" / "__0_0.distcp").touch(),
        ),
        "FSDP's shards. Fix: accelerate merge-weights .*pytorch_model_fsdp_0",
    ),
    "another family": (
        lambda m: edit_json(m / "config.json", model_type="llava_next_9", architectures=["LlavaX"]),
        r"'llava_next_9' model \(LlavaX\).*--engine lmms-eval.*--backend openai:",
    ),
    "text only": (
        lambda m: edit_json(m / "config.json", model_type="qwen2", architectures=["Qwen2ForCausalLM"]),
        "'qwen2' model",
    ),
    "gptq": (
        lambda m: edit_json(m / "config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        r"is quantised \(gptq\).*pip install gptqmodel.*--backend vllm",
    ),
    "bitsandbytes": (
        lambda m: edit_json(m / "config.json", quantization_config={"quant_method": "bitsandbytes"}),
        "pip install bitsandbytes",
    ),
}


@pytest.mark.parametrize(("damage", "message"), COPIES.values(), ids=COPIES)
def test_a_folder_that_cannot_be_loaded_is_answered_before_a_clip_is_decoded(
    model, data_root, tmp_path, damage, message
):
    damage(model)
    with pytest.raises(ConfigError, match=message):
        planned(model, data_root, tmp_path)


GOOD = {
    "as saved": lambda m: None,
    "in shards": lambda m: in_shards(m, absent=False),
    "a trainer's wrapper class": lambda m: edit_json(m / "config.json", architectures=["MyQwenWrapper"]),
    "no architectures": lambda m: edit_json(m / "config.json", architectures=None),
    "training.json of another tool": lambda m: (m / "training.json").write_text('{"step": "last", "identity": [1]}'),
    "template in tokenizer_config.json": lambda m: (
        edit_json(m / "tokenizer_config.json", chat_template=(m / "chat_template.jinja").read_text()),
        (m / "chat_template.jinja").unlink(),
    ),
    "template as JSON": lambda m: (
        (m / "chat_template.json").write_text(json.dumps({"chat_template": (m / "chat_template.jinja").read_text()})),
        (m / "chat_template.jinja").unlink(),
    ),
    "template in both files": lambda m: template_as_json(m, more="\n"),
    "no generation_config.json": lambda m: (m / "generation_config.json").unlink(),
}


@pytest.mark.parametrize("change", GOOD.values(), ids=GOOD)
def test_a_folder_that_can_be_loaded_is(model, data_root, tmp_path, change):
    change(model)
    found = planned(model, data_root, tmp_path)
    assert found.manifest.model.architecture is not None
    load_model(found.config.model, base_model=None, revision=None, dtype="float32", device=torch.device("cpu"))


def test_training_json_of_another_tool_ends_in_a_complete_run(model, data_root, tmp_path):
    for content in ('{"step": "last", "identity": [1]}', '{"step": 5, "config": 3, "identity": null}', "[]", "{"):
        (model / "training.json").write_text(content)
        options = ("--model", model, "--data-root", data_root, "--runs-dir", tmp_path / "runs", "--max-new-tokens", 2)
        done = cli("eval", *options, "--levels", "L2", "--run-name", f"r{len(content)}", cwd=tmp_path)
        if content in ("[]", "{"):
            assert (done.returncode, "training.json" in done.stderr) == (3, True)
        else:
            assert done.returncode == 0, done.stderr


def test_a_quantised_checkpoint_is_known_by_its_run(model):
    edit_json(model / "config.json", quantization_config={"quant_method": "awq", "bits": 4})
    assert inspect_model(str(model)).info.quantisation == "awq-4bit"


def test_verl_shards_lie_in_actor(tmp_path):
    (tmp_path / "global_step_100" / "actor").mkdir(parents=True)
    (tmp_path / "global_step_100" / "actor" / "model_world_size_8_rank_0.pt").touch()
    with pytest.raises(ConfigError, match=r"verl's FSDP shards. Fix: python -m verl.model_merger merge .*actor"):
        inspect_model(str(tmp_path / "global_step_100"))


# ---- where it is


def test_names_close_by_are_named(model, tmp_path):
    for name in ("ckpt/care", "ckpt/checkpoint-20", "ckpt/checkpoint-100"):
        shutil.copytree(model, tmp_path / name)
    (tmp_path / "ckpt" / "lora").mkdir()
    (tmp_path / "ckpt" / "lora" / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"there is no such folder. Did you mean \S+ckpt/care\?"):
        inspect_model(str(tmp_path / "ckpt" / "car"))
    with pytest.raises(ConfigError, match=r"It holds 4; the newest: --model \S+/lora"):
        inspect_model(str(tmp_path / "ckpt"))
    shutil.rmtree(tmp_path / "ckpt" / "lora")
    shutil.rmtree(tmp_path / "ckpt" / "care")
    with pytest.raises(ConfigError, match=r"It holds 2; the newest: --model \S+/checkpoint-100"):
        inspect_model(str(tmp_path / "ckpt"))
    assert sorted(["checkpoint-100", "checkpoint-20", "a"], key=natural) == ["a", "checkpoint-20", "checkpoint-100"]


def test_a_slip_beside_local_folders_is_no_hub_id(model, tmp_path, monkeypatch):
    shutil.copytree(model, tmp_path / "ckpt" / "care")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"Did you mean ckpt/care\?"):
        inspect_model("ckpt/car")


# ---- --processor


@pytest.mark.parametrize("family", FAMILIES)
def test_another_models_processor_files_are_used(family, tmp_path):
    whole = tiny_checkpoint(family)
    bare = tmp_path / "bare"
    shutil.copytree(whole, bare)
    for pattern in ("tokenizer*", "*processor*", "chat_template*", "vocab*", "merges*"):
        for path in bare.glob(pattern):
            path.unlink()
    (bare / "preprocessor_config.json").write_text('{"image_processor_type": "Gone"}')
    with pytest.raises(ConfigError, match="--processor BASE_MODEL"):
        load_processor(str(bare))
    found = inspect_model(str(bare), processor=str(whole), views=tmp_path / "views")
    again = inspect_model(str(bare), processor=str(whole), views=tmp_path / "views")
    assert found.folder == again.folder
    assert not (found.folder / "preprocessor_config.json").exists() or (whole / "preprocessor_config.json").exists()
    ours, theirs = load_processor(str(found.folder)), load_processor(str(whole))
    assert (ours.layout, ours.chat_template) == (theirs.layout, theirs.chat_template)
    assert found.info.path == str(bare)
    assert found.info.files["tokenizer.json"] == inspect_model(str(whole)).info.files["tokenizer.json"]


def test_two_processes_make_the_same_view_at_once(model, tmp_path, monkeypatch):
    views = tmp_path / "views"
    real = Path.replace

    def late(self: Path, target: Path) -> Path:
        monkeypatch.undo()  # the other process is not late
        shutil.copytree(self, target, symlinks=True)
        return real(self, target)

    monkeypatch.setattr(Path, "replace", late)
    view = with_processor(model, str(model), views)
    assert (view / "config.json").is_file()
    assert list(views.iterdir()) == [view]


def test_a_processor_that_is_none(model, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no tokenizer or processor files"):
        with_processor(model, str(tmp_path / "empty"), tmp_path / "views")
    with pytest.raises(ConfigError, match="no such folder, and no hub id"):
        with_processor(model, str(tmp_path / "gone"), tmp_path / "views")


def test_frames_that_cannot_fit_are_refused_with_the_numbers(model, data_root, tmp_path):
    planned(model, data_root, tmp_path)
    with pytest.raises(ConfigError, match=r"takes at least \d+ tokens \(64 frames of .*--min-frames and --min-pixels"):
        planned(model, data_root, tmp_path, min_frames=64, max_frames=64)


def test_frames_that_may_not_fit_are_warned_of(model, data_root, tmp_path, caplog):
    planned(model, data_root, tmp_path, max_frames=64)
    assert "A prompt of 64 frames takes up to" in caplog.text
