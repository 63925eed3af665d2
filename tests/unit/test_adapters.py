"""Adapters as peft, TRL, ms-swift and LLaMA-Factory leave them, under today's transformers and under older ones."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import peft
import pytest
import safetensors.torch
import torch

from seedbench_r1.backends.loading import load_model
from seedbench_r1.errors import ConfigError
from seedbench_r1.models.checkpoint import inspect_model
from tests.tiny_models import tiny_checkpoint

CPU = torch.device("cpu")
LANGUAGE = r".*language_model\..*\.(q_proj|v_proj)"


@pytest.fixture(scope="module")
def base() -> Path:
    return tiny_checkpoint("qwen2_5_vl")


def load(folder: Path, base_model: Path | None = None):
    return load_model(
        str(folder), base_model=base_model and str(base_model), revision=None, dtype="float32", device=CPU
    )[0]


@pytest.fixture(scope="module")
def weights(base) -> dict[str, torch.Tensor]:
    return {name: value.double() for name, value in load(base).state_dict().items()}


def save_adapter(folder: Path, base: Path, *, embeddings: bool | str = False, **options) -> Path:
    """Written by peft of today, with weights that matter; "auto" embeddings are its default."""
    options = {"r": 4, "lora_alpha": 12, "target_modules": LANGUAGE, "init_lora_weights": False} | options
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(load(base), peft.LoraConfig(**options))
    for name, value in wrapped.named_parameters():
        if "modules_to_save" in name:
            torch.nn.init.normal_(value)
        elif "magnitude" in name:
            value.data *= 1.5
    wrapped.peft_config["default"].base_model_name_or_path = str(base.resolve())
    wrapped.save_pretrained(folder, save_embedding_layers=embeddings)
    return folder


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "adapter_model.safetensors")


def write_tensors(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    safetensors.torch.save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, **changes) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def before_4_52(name: str) -> str:
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


LAYOUTS = {
    "today": lambda name: name,
    "transformers 4.51": before_4_52,
    "language_model.model": lambda name: name.replace("model.language_model.", "language_model.model."),
    "a wrapper's model.model": lambda name: name.replace("model.language_model.", "model.model."),
    "with the adapter's name": lambda name: name.replace("lora_A.", "lora_A.default.").replace(
        "lora_B.", "lora_B.default."
    ),
    "without peft's prefix": lambda name: name.removeprefix("base_model.model."),
}


def merged_by_hand(weights: dict, folder: Path, scale: float | dict[str, float]) -> dict[str, torch.Tensor]:
    """W + scale B A in float64, from an adapter in today's names."""
    expected = dict(weights)
    tensors = {name.removeprefix("base_model.model."): value.double() for name, value in tensors_of(folder).items()}
    for name, a in tensors.items():
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            b = tensors[f"{module}.lora_B.weight"]
            factor = scale if isinstance(scale, float) else scale[module.rpartition(".")[2]]
            expected[f"{module}.weight"] = weights[f"{module}.weight"] + factor * b @ a
    return expected


def assert_equal(model, expected: dict[str, torch.Tensor]) -> None:
    found = model.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-5, msg=name)


def differing(model, weights) -> set[str]:
    found = model.state_dict()
    return {name for name, value in weights.items() if not torch.equal(found[name].double(), value)}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(
    "targets",
    [
        ["q_proj", "v_proj", "down_proj"],  # down_proj: of the vision tower too
        r".*language_model\..*\.(q_proj|v_proj)|.*visual.*\.qkv",
        "all-linear",
    ],
    ids=["list", "pattern", "all-linear"],
)
def test_an_adapter_of_any_layout_is_applied_in_full(base, weights, tmp_path, layout, targets):
    folder = save_adapter(tmp_path / "adapter", base, target_modules=targets)
    expected = merged_by_hand(weights, folder, 3.0)
    write_tensors(folder, {layout(name): value for name, value in tensors_of(folder).items()})
    model = load(folder)
    assert_equal(model, expected)
    changed = differing(model, weights)
    assert any(".visual." in name for name in changed)
    assert any(".language_model." in name for name in changed)


@pytest.mark.parametrize(
    ("old", "layout"),
    [
        (r"model\.layers\..*\.(q_proj|v_proj)", before_4_52),
        (r"^(?!.*visual).*(?:q_proj|v_proj)$", before_4_52),
        (r"language_model\.model\.layers\.\d+\.self_attn\.(q_proj|v_proj)", LAYOUTS["language_model.model"]),
    ],
)
def test_patterns_that_were_written_against_old_names_hold(base, weights, tmp_path, old, layout):
    folder = save_adapter(tmp_path / "adapter", base)
    expected = merged_by_hand(weights, folder, 3.0)
    write_tensors(folder, {layout(name): value for name, value in tensors_of(folder).items()})
    change_config(folder, target_modules=old)
    assert_equal(load(folder), expected)


def test_rank_stabilised_scales_and_patterns_of_rank_and_scale(base, weights, tmp_path):
    folder = save_adapter(tmp_path / "rs", base, use_rslora=True)
    assert_equal(load(folder), merged_by_hand(weights, folder, 12 / math.sqrt(4)))
    folder = save_adapter(tmp_path / "patterns", base, rank_pattern={"v_proj": 2}, alpha_pattern={"v_proj": 10})
    write_tensors(folder, {before_4_52(name): value for name, value in tensors_of(folder).items()})
    expected = merged_by_hand(
        weights,
        save_adapter(tmp_path / "p2", base, rank_pattern={"v_proj": 2}, alpha_pattern={"v_proj": 10}),
        {"q_proj": 12 / 4, "v_proj": 10 / 2},
    )
    assert_equal(load(folder), expected)


@pytest.mark.parametrize("layout", [LAYOUTS["today"], before_4_52], ids=["today", "transformers 4.51"])
def test_dora_is_applied(base, weights, tmp_path, layout):
    """Weight-decomposed: m (W + s B A) / |W + s B A| by rows (arXiv 2402.09353, equation 5)."""
    folder = save_adapter(tmp_path / "adapter", base, use_dora=True)
    expected = merged_by_hand(weights, folder, 3.0)
    for name, magnitude in tensors_of(folder).items():
        if "magnitude" in name:
            weight = name.removeprefix("base_model.model.").partition(".lora_magnitude")[0] + ".weight"
            directed = expected[weight]
            expected[weight] = magnitude.double()[:, None] * directed / directed.norm(dim=1, keepdim=True)
    write_tensors(folder, {layout(name): value for name, value in tensors_of(folder).items()})
    assert_equal(load(folder), expected)


@pytest.mark.parametrize("layout", [LAYOUTS["today"], before_4_52], ids=["today", "transformers 4.51"])
def test_modules_that_were_trained_as_a_whole_replace_the_bases(base, weights, tmp_path, layout):
    folder = save_adapter(tmp_path / "adapter", base, modules_to_save=["lm_head", "merger"])
    expected = merged_by_hand(weights, folder, 3.0)
    whole = {name: value for name, value in tensors_of(folder).items() if "lora" not in name}
    assert any("lm_head" in name for name in whole)
    assert any("merger" in name for name in whole)
    for name, value in whole.items():
        expected[name.removeprefix("base_model.model.")] = value.double()
    write_tensors(folder, {layout(name): value for name, value in tensors_of(folder).items()})
    model = load(folder)
    assert_equal(model, expected)
    model.save_pretrained(tmp_path / "merged")  # as vLLM's backend does: an untied head must stay so
    for name in ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (base / name).exists():
            shutil.copy(base / name, tmp_path / "merged")
    for file in base.glob("*processor*"):
        shutil.copy(file, tmp_path / "merged")
    assert_equal(load(tmp_path / "merged"), expected)


def test_a_whole_module_may_be_there_with_its_original_and_not_twice(base, weights, tmp_path):
    folder = save_adapter(tmp_path / "adapter", base, modules_to_save=["lm_head"])
    tensors = tensors_of(folder)
    head = next(name for name in tensors if "lm_head" in name)
    trained = tensors.pop(head)
    rest = merged_by_hand(weights, folder, 3.0)
    first = "base_model.model.lm_head.modules_to_save.default.weight"
    write_tensors(
        folder, tensors | {first: trained, "base_model.model.lm_head.original_module.weight": trained.clone() + 1}
    )
    assert_equal(load(folder), rest | {"lm_head.weight": trained.double()})
    second = first.replace("default", "second")
    write_tensors(folder, tensors | {first: trained, second: trained + 1})
    with pytest.raises(ConfigError, match=rf"two tensors for lm_head.weight: {first} and {second}"):
        load(folder)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_what_was_taken_from_the_base_is_taken_again(base, tmp_path, start):
    """B A of an untrained PiSSA or OLoRA adapter is what its base lacks: merged, it is the base."""
    wrapped = peft.get_peft_model(
        load(base), peft.LoraConfig(r=4, lora_alpha=12, target_modules=LANGUAGE, init_lora_weights=start)
    )
    wrapped.peft_config["default"].base_model_name_or_path = str(base.resolve())
    wrapped.save_pretrained(tmp_path / "adapter")
    change_config(tmp_path / "adapter", init_lora_weights=start)
    assert_equal(load(tmp_path / "adapter"), {name: value.double() for name, value in load(base).state_dict().items()})


@pytest.mark.parametrize("pattern", [r"model.layers.\d+.self_attn.v_proj", r"model.language_model.layers.\d+.*v_proj"])
@pytest.mark.parametrize("layout", [LAYOUTS["today"], before_4_52], ids=["today", "transformers 4.51"])
def test_patterns_of_scale_hold_whichever_names_they_were_written_against(base, weights, tmp_path, pattern, layout):
    folder = save_adapter(tmp_path / "adapter", base)
    expected = merged_by_hand(weights, folder, {"q_proj": 12 / 4, "v_proj": 10 / 4})
    write_tensors(folder, {layout(name): value for name, value in tensors_of(folder).items()})
    change_config(folder, alpha_pattern={pattern: 10})
    assert_equal(load(folder), expected)


@pytest.fixture(scope="module")
def tied(base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tied") / "model"
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    model = load(base)
    model.lm_head.weight = model.get_input_embeddings().weight
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = True
    model.save_pretrained(folder)
    return folder


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(40)[None]).logits.double()


def as_peft_has_it(folder: Path, base: Path) -> torch.Tensor:
    return logits(peft.PeftModel.from_pretrained(load(base), folder).eval())


@pytest.mark.parametrize("embeddings", [False, "auto"], ids=["without", "peft's default"])
@pytest.mark.parametrize("targets", ["lm_head", "embed_tokens", "lm_head embed_tokens"])
@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_adapters_of_the_embeddings_answer_as_peft_does_unmerged(base, tied, tmp_path, is_tied, targets, embeddings):
    below = tied if is_tied else base
    head = load(below)
    assert (head.lm_head.weight is head.get_input_embeddings().weight) == is_tied
    targets = ["q_proj", *targets.split()]
    folder = save_adapter(tmp_path / "adapter", below, target_modules=targets, embeddings=embeddings)
    assert any("base_layer" in name for name in tensors_of(folder)) == bool(embeddings)
    merged = load(folder)
    torch.testing.assert_close(logits(merged), as_peft_has_it(folder, below), rtol=1e-4, atol=1e-4)
    assert (logits(merged) - logits(load(below))).abs().max() > 0.1
    assert merged.config.tie_word_embeddings is False


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], ["q_proj"]], ids=["targeted", "not targeted"])
def test_embeddings_in_the_file_that_are_not_the_bases_are_applied(base, tied, tmp_path, is_tied, targets):
    below = tied if is_tied else base
    folder = save_adapter(tmp_path / "adapter", below, target_modules=targets, embeddings="auto")
    tensors = {name: value for name, value in tensors_of(folder).items() if "base_layer" not in name}
    name = "lm_head.base_layer" if "lm_head" in targets else "lm_head"
    changed = load(below).lm_head.weight.detach() * 1.5
    write_tensors(folder, tensors | {f"base_model.model.{name}.weight": changed})
    torch.testing.assert_close(logits(load(folder)), as_peft_has_it(folder, below), rtol=1e-4, atol=1e-4)
    if is_tied:
        other = {"base_model.model.model.language_model.embed_tokens.weight": changed * 2}
        write_tensors(folder, tensors_of(folder) | other)
        with pytest.raises(ConfigError, match=r"two values for lm_head.weight, which is tied"):
            load(folder)


def test_pissa_of_the_head_with_the_weights_that_peft_adds(base, tied, tmp_path):
    options = {"target_modules": ["q_proj", "lm_head"], "init_lora_weights": "pissa", "embeddings": "auto"}
    folder = save_adapter(tmp_path / "adapter", base, **options)
    tensors = tensors_of(folder)
    write_tensors(folder, {n: v * 1.5 if "lora_A" in n else v for n, v in tensors.items()})
    change_config(folder, init_lora_weights="pissa")
    torch.testing.assert_close(logits(load(folder)), as_peft_has_it(folder, base), rtol=1e-3, atol=1e-3)
    with pytest.raises(ConfigError, match="pissa of embeddings that are tied"):
        load(folder, tied)


@pytest.mark.parametrize("saved", [["norm"], ["model.norm"], ["merger"], ["visual.merger.mlp"], ["layernorm"]], ids=str)
def test_modules_to_save_are_matched_by_the_end_of_their_names(base, tmp_path, saved):
    written = [name.replace("model.norm", "language_model.norm") for name in saved]
    folder = save_adapter(tmp_path / "adapter", base, modules_to_save=written, target_modules="all-linear")
    expected = as_peft_has_it(folder, base)
    whole = {name: value for name, value in tensors_of(folder).items() if "lora" not in name}
    write_tensors(folder, {before_4_52(name): value for name, value in tensors_of(folder).items()})
    change_config(folder, modules_to_save=saved)
    model = load(folder)
    torch.testing.assert_close(logits(model), expected, rtol=1e-3, atol=1e-3)
    for name, value in whole.items():
        assert torch.equal(model.get_parameter(name.removeprefix("base_model.model.")), value)
    short = tensors_of(folder)
    for name in whole:
        if "layernorm" not in name:
            del short[before_4_52(name)]
            break
    write_tensors(folder, short)
    if saved != ["layernorm"]:  # no module is called so: what merely ends so is taken, not asked for
        with pytest.raises(ConfigError, match="modules_to_save"):
            load(folder)


def test_weights_as_a_bin_file(base, weights, tmp_path):
    folder = save_adapter(tmp_path / "adapter", base)
    expected = merged_by_hand(weights, folder, 3.0)
    torch.save(tensors_of(folder), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    assert_equal(load(folder), expected)


def half(folder: Path) -> None:
    write_tensors(folder, {name: value for name, value in tensors_of(folder).items() if ".layers.0." in name})


def one_matrix_gone(folder: Path) -> None:
    tensors = tensors_of(folder)
    del tensors[next(name for name in tensors if "layers.1" in name and "lora_B" in name)]
    write_tensors(folder, tensors)


def strange_names(folder: Path) -> None:
    write_tensors(folder, {name.replace("q_proj", "qq_proj"): value for name, value in tensors_of(folder).items()})


def deeper_model(folder: Path) -> None:
    tensors = tensors_of(folder)
    more = {
        name.replace("layers.1", "layers.7"): value.clone() for name, value in tensors.items() if "layers.1" in name
    }
    write_tensors(folder, tensors | more)


def two_adapters(folder: Path) -> None:
    tensors = tensors_of(folder)
    write_tensors(
        folder, tensors | {n.replace("lora_A", "lora_A.second"): v.clone() for n, v in tensors.items() if "_A" in n}
    )


def truncated(folder: Path) -> None:
    data = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(data[: len(data) // 2])


def copied_as(folder: Path, suffix: str, other: str, *, n: int = 1) -> None:
    """A second tensor of the first name with this ending, under another name."""
    tensors = tensors_of(folder)
    name = next(name for name in tensors if name.endswith(suffix))
    write_tensors(folder, tensors | {name.replace(*other.split(">")): tensors[name] + n})


def with_norm(folder: Path) -> None:
    norm = "base_model.model.model.language_model.norm.weight"
    write_tensors(folder, tensors_of(folder) | {norm: torch.ones(64)})
    change_config(folder, bias="all")


WRONG = {
    **{
        f"begun as {start}": (
            lambda folder, start=start: change_config(folder, init_lora_weights=start),
            rf"init_lora_weights '{start}'.*path_initial_model_for_weight_conversion",
        )
        for start in ("pissa_niter_4", "lora_ga", "corda", "loftq", "a_new_one")
    },
    **{
        f"lora_alpha {scale!r}": (
            lambda folder, scale=scale: change_config(folder, lora_alpha=scale),
            rf"lora_alpha is {scale!r}, which is no number",
        )
        for scale in (None, "12", True)
    },
    "alpha_pattern": (lambda folder: change_config(folder, alpha_pattern={"q_proj": None}), "lora_alpha is None"),
    "aLoRA": (lambda folder: change_config(folder, alora_invocation_tokens=[3]), "sets alora_invocation_tokens"),
    "arrow": (lambda folder: change_config(folder, arrow_config={"top_k": 2}), "sets arrow_config"),
    "BD-LoRA": (lambda folder: change_config(folder, use_bdlora={"nblocks": 2}), "sets use_bdlora"),
    "tying": (lambda folder: change_config(folder, ensure_weight_tying=True), "sets ensure_weight_tying"),
    "a setting of the wrong type": (
        lambda folder: change_config(folder, lora_dropout="much"),
        r"peft \S+ cannot apply it: .+ Fix: merge the adapter with the version of peft that wrote it \(\d",
    ),
    "a pattern that is none": (lambda folder: change_config(folder, target_modules="("), "cannot apply it: "),
    "a number for names": (lambda folder: change_config(folder, target_modules=5), "cannot apply it: "),
    "old and new names": (
        lambda folder: copied_as(folder, "q_proj.lora_A.weight", "model.language_model.>model."),
        r"two tensors for \S+q_proj.lora_A.weight: \S+ and \S+",
    ),
    "a norm with the biases": (with_norm, "holds model.language_model.norm.weight, which its adapter_config.json does"),
    "half": (half, r"targets model.language_model.layers.1.self_attn.q_proj, and its file holds no tensor"),
    "one matrix gone": (one_matrix_gone, r"layers.1.self_attn.q_proj is not complete"),
    "strange names": (strange_names, r"tensor \S+qq_proj\S+ has no place in the base model"),
    "deeper model": (deeper_model, r"layers.7\S+ has no place in the base model"),
    "two adapters": (two_adapters, "holds several adapters"),
    "truncated": (truncated, "cannot be read .* copied whole"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "No adapter_model.safetensors"),
    "targets more": (lambda folder: change_config(folder, target_modules=["q_proj", "v_proj", "k_proj"]), "k_proj"),
    "no magnitudes": (lambda folder: change_config(folder, use_dora=True), "is not complete"),
    "a module not saved": (
        lambda folder: change_config(folder, modules_to_save=["lm_head"]),
        "modules_to_save names lm_head",
    ),
    "another kind": (lambda folder: change_config(folder, peft_type="LOHA"), "is a LOHA adapter"),
    "unknown setting": (lambda folder: change_config(folder, use_novelty=True), "sets use_novelty"),
    "layer replication": (lambda folder: change_config(folder, layer_replication=[[0, 1]]), "sets layer_replication"),
    "not JSON": (lambda folder: (folder / "adapter_config.json").write_text("{"), "cannot be read as JSON"),
}


@pytest.mark.parametrize(("damage", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_applied_in_full_is_refused(base, tmp_path, damage, message):
    folder = save_adapter(tmp_path / "adapter", base)
    damage(folder)
    with pytest.raises(ConfigError, match=message):
        load(folder, base)


@pytest.mark.parametrize(
    "name", ["non_lora_state_dict.bin", "non_lora_trainables.bin", "mm_projector.bin", "new.safetensors", "head.pt"]
)
def test_weights_beside_the_adapter_are_refused_by_name(base, tmp_path, name):
    folder = save_adapter(tmp_path / "adapter", base)
    for state in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin", "scaler.pt", "optimizer.bin"):
        (folder / state).write_bytes(b"x")
    load(folder)
    inspect_model(str(folder))
    (folder / name).write_bytes(b"x")
    for look in (load, lambda folder: inspect_model(str(folder))):
        with pytest.raises(ConfigError, match=rf"holds {name} next to the adapter, which would not be applied"):
            look(folder)


def test_a_whole_model_beside_the_adapter_is_refused(base, tmp_path):
    folder = save_adapter(tmp_path / "adapter", base)
    for file in ("model.safetensors", "config.json"):
        shutil.copy(base / file, folder)
    for look in (load, lambda folder: inspect_model(str(folder))):
        with pytest.raises(ConfigError, match=r"holds model.safetensors and adapter_config.json: a whole model, or an"):
            look(folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(ConfigError, match=r"model.safetensors and adapter_model.safetensors, without adapter_config"):
        inspect_model(str(folder))


def test_a_bias_of_lora_where_the_base_has_none_is_refused(base, tmp_path):
    folder = save_adapter(tmp_path / "adapter", base, target_modules=["o_proj"], lora_bias=True)
    assert any("lora_B.bias" in name for name in tensors_of(folder))
    with pytest.raises(ConfigError, match=r"cannot apply it: .*bias"):
        load(folder)


def test_an_adapter_of_another_size_is_refused(tmp_path):
    folder = save_adapter(tmp_path / "adapter", tiny_checkpoint("qwen2_5_vl"))
    tensors = tensors_of(folder)
    write_tensors(folder, {n: v[:, :-2].contiguous() if "lora_A" in n else v for n, v in tensors.items()})
    with pytest.raises(ConfigError, match="is no adapter of this base model"):
        load(folder)
