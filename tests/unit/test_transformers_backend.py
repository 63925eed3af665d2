"""The transformers backend against transformers itself, and under memory pressure and bad requests."""

from __future__ import annotations

import json
import sys
from functools import partial

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

from seedbench_r1.backends.base import draws
from seedbench_r1.backends.decoding import end_token_ids
from seedbench_r1.backends.loading import load_model, resolve_device
from seedbench_r1.backends.transformers import TransformersBackend
from seedbench_r1.errors import ConfigError, ResourceError
from seedbench_r1.models.qwen_vl import prepare_inputs
from seedbench_r1.types import Failure, SamplingConfig
from tests.tiny_models import FAMILIES, make_tiny, request, tiny_checkpoint, vision_tensors

GREEDY = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=12, logprobs=True)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def loaded(family):
    return TransformersBackend(str(tiny_checkpoint(family)), device="cpu", batch_size=4)


@pytest.fixture
def backend(loaded):
    """The family's backend, with whatever a test does to its model undone."""
    model, batch_size, ends = loaded.model, loaded.batch_size, loaded.model.generation_config.eos_token_id
    yield loaded
    loaded.model, loaded.batch_size = model, batch_size
    loaded.model.generation_config.eos_token_id = ends


class Wrapped:
    """A model whose forward pass may fail; everything else is the model's."""

    def __init__(self, model, fail):
        self._model, self._fail, self.calls = model, fail, []

    def __getattr__(self, name):
        return getattr(self._model, name)

    def __call__(self, input_ids, **options):
        self.calls.append(tuple(input_ids.shape))
        self._fail(self.calls, input_ids)
        return self._model(input_ids=input_ids, **options)


def answers(backend, requests, sampling=GREEDY):
    """question_id -> its results, in the order of their token ids."""
    found = {}
    for question_id, result in backend.generate(iter(requests), sampling):
        found.setdefault(question_id, []).append(result)
    return {name: sorted(results, key=str) for name, results in found.items()}


def tokens(backend, requests, sampling=GREEDY):
    return {name: [g.token_ids for g in results] for name, results in answers(backend, requests, sampling).items()}


def several(family, n=6):
    """Requests of different length, one of them without a clip."""
    return [
        request(f"L1/{i}", family, n_frames=None if i == 2 else 4, question="What next? " * (i + 1)) for i in range(n)
    ]


def test_tokens_equal_transformers_generate(backend, family):
    # cells 3 x 4 against two temporal patches 2 s x 2 apart: here both agree on the positions
    asked = request("L1/1", family, cells=(3, 4), seconds=2.0)
    inputs = prepare_inputs(asked, backend.processor)
    ids, layout = inputs.input_ids[None], backend.processor.layout
    kinds = (ids == layout.image_token_id).int() + 2 * (ids == layout.video_token_id).int()
    if family == "qwen2_5_vl":
        extra = {"second_per_grid_ts": torch.tensor([inputs.seconds_per_grid])}
    else:
        extra = {}
    expected = backend.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=kinds,
        generation_config=transformers.GenerationConfig(
            do_sample=False,
            max_new_tokens=12,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            repetition_penalty=1.0,
            suppress_tokens=list(backend.processor.forbidden_ids),
            eos_token_id=sorted(end_token_ids(backend.model, backend.processor.tokenizer)),
            pad_token_id=backend.processor.tokenizer.pad_token_id,
        ),
        **vision_tensors(backend.model, layout, [inputs]),
        **extra,
    )[0, ids.shape[1] :].tolist()
    while expected and expected[-1] in end_token_ids(backend.model, backend.processor.tokenizer):
        expected.pop()
    assert len(expected) > 3
    # a stale value from the call above must not leak into ours
    assert tokens(backend, [asked]) == {"L1/1": [tuple(expected)]}


def test_logprobs_equal_one_uncached_forward(backend, family):
    # a clip whose temporal extent exceeds its spatial one; all tokens scored at once, at the positions by definition
    asked = request("L1/1", family, n_frames=8, cells=(2, 2), seconds=20.0)
    (generation,) = answers(backend, [asked])["L1/1"]
    inputs = prepare_inputs(asked, backend.processor)
    length, n = len(inputs.input_ids), len(generation.token_ids)
    assert n > 3
    later = torch.arange(n) + int(inputs.positions.max()) + 1
    with torch.no_grad():
        logits = backend.model(
            input_ids=torch.cat([inputs.input_ids, torch.tensor(generation.token_ids)])[None],
            position_ids=torch.cat([inputs.positions, later.expand(3, -1)], dim=1)[:, None],
            **vision_tensors(backend.model, backend.processor.layout, [inputs]),
        ).logits[0, length - 1 : length - 1 + n]
    expected = logits.log_softmax(-1).gather(1, torch.tensor(generation.token_ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(generation.logprobs), expected, rtol=0, atol=2e-5)
    assert generation.n_prompt_tokens == length


def test_stale_rope_deltas_change_nothing(backend, family):
    clean = tokens(backend, several(family))
    backend.model.model.rope_deltas = torch.full((1, 1), 1000)
    assert tokens(backend, several(family)) == clean
    backend.model.model.rope_deltas = None


def test_vision_tower_runs_once_for_many_completions(backend, family):
    counted = []
    hook = backend.model.model.visual.register_forward_hook(lambda *_: counted.append(1))
    sampling = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=4, n=5)
    assert len(tokens(backend, [request("L1/1", family)], sampling)["L1/1"]) == 5
    hook.remove()
    assert len(counted) == 1  # for the image and the clip together


def test_shipped_sampling_values_do_not_leak(backend, family):
    # the checkpoint's generation_config.json says T=1e-6, top_k=1, which would make all eight alike
    sampling = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=6, n=8)
    assert len(set(tokens(backend, [request("L1/1", family)], sampling)["L1/1"])) >= 6


def test_any_end_token_stops(backend, family):
    asked = request("L1/1", family)
    (free,) = answers(backend, [asked])["L1/1"]
    assert (free.finish_reason, free.n_tokens) == ("length", 12)
    first_seen = free.token_ids.index(free.token_ids[5])
    backend.model.generation_config.eos_token_id = [100_000, free.token_ids[5]]
    (cut,) = answers(backend, [asked])["L1/1"]
    assert cut.finish_reason == "stop"
    assert cut.token_ids == free.token_ids[:first_seen]
    assert len(cut.logprobs) == cut.n_tokens == first_seen
    assert cut.text == backend.processor.tokenizer.decode(cut.token_ids, skip_special_tokens=True)


def test_placeholders_are_never_emitted(backend, family):
    pad = backend.processor.layout.video_token_id
    model = backend.model

    class Eager(Wrapped):
        def __call__(self, input_ids, **options):
            output = model(input_ids=input_ids, **options)
            output.logits[..., pad] += 1000
            return output

    backend.model = Eager(model, None)
    (generation,) = answers(backend, [request("L1/1", family)])["L1/1"]
    assert generation.n_tokens
    assert pad not in generation.token_ids


def test_the_context_ends_a_completion(tmp_path):
    backend = TransformersBackend(str(make_tiny(tmp_path, "qwen2_5_vl", context=120)), device="cpu")
    asked = request("L1/1", cells=(1, 1))
    length = len(prepare_inputs(asked, backend.processor).input_ids)
    (generation,) = answers(backend, [asked], SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=500))["L1/1"]
    assert generation.finish_reason == "length"
    assert generation.n_tokens == 120 - length


def out_of_memory(limit):
    def fail(calls, input_ids):
        if len(input_ids) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")

    return fail


@pytest.mark.parametrize(("limit", "settled", "prefills"), [(3, 2, [4, 2, 2]), (1, 1, [4, 2, 1, 1, 1, 1])])
def test_out_of_memory_halves_the_batch_and_stays_there(backend, family, limit, settled, prefills, caplog):
    expected = tokens(backend, several(family, 4))
    batch = [backend._prepare(asked, draws(asked, GREEDY)) for asked in several(family, 4)]
    backend.model, backend.batch_size = Wrapped(backend.model, out_of_memory(limit)), 4
    results = dict(backend._answer(batch, partial(backend._decode, sampling=GREEDY)))
    assert {name: [generation.token_ids] for name, generation in results.items()} == expected
    assert [rows for rows, length in backend.model.calls if length > 1] == prefills
    assert backend.batch_size == settled
    assert "Retrying at 2" in caplog.text
    assert tokens(backend, several(family, 4)) == expected  # the next stream starts at the size that fits
    assert max(rows for rows, length in backend.model.calls[-4:]) <= settled


def test_out_of_memory_in_the_middle_repeats_no_answer(backend, family):
    # L1/1 ends at its third token; memory runs out at the sixth, when its answer has already left
    backend.model.generation_config.eos_token_id = tokens(backend, several(family))["L1/1"][0][2]
    expected = tokens(backend, several(family))
    batch = [backend._prepare(asked, draws(asked, GREEDY)) for asked in several(family)]
    failed = []

    def fail(calls, input_ids):
        if len(calls) == 6:
            failed.append(len(input_ids))
            raise torch.OutOfMemoryError("late")

    backend.model, backend.batch_size = Wrapped(backend.model, fail), len(batch)
    results = list(backend._answer(batch, partial(backend._decode, sampling=GREEDY)))
    assert failed[0] < len(batch)
    assert len(results) == len(batch)
    assert {name: [generation.token_ids] for name, generation in results} == expected


def test_out_of_memory_at_one_says_what_to_do(backend, family):
    backend.model = Wrapped(backend.model, out_of_memory(0))
    with pytest.raises(ResourceError, match=r"Still OOM at 1 \(sample L1/1, 4 frames × \d+k px.*--max-pixels \d+"):
        answers(backend, [request("L1/1", family)])


def test_only_the_poisoned_request_fails(backend, family, caplog):
    expected = tokens(backend, several(family))
    poison = backend.processor.tokenizer("pan")["input_ids"][-1]
    assert not any(poison in prepare_inputs(asked, backend.processor).input_ids for asked in several(family))

    def fail(calls, input_ids):
        if input_ids.shape[1] > 1 and (input_ids == poison).any():
            raise RuntimeError("shape mismatch")

    backend.model = Wrapped(backend.model, fail)
    mixed = [*several(family, 3), request("L1/bad", family, question="pan"), *several(family)[3:]]
    found = answers(backend, mixed)
    assert found.pop("L1/bad") == [Failure("backend_error", "RuntimeError: shape mismatch")]
    assert {name: [g.token_ids for g in results] for name, results in found.items()} == expected


def test_an_interrupt_passes(backend, family):
    def fail(calls, input_ids):
        raise KeyboardInterrupt

    backend.model = Wrapped(backend.model, fail)
    with pytest.raises(KeyboardInterrupt):
        answers(backend, [request("L1/1", family)])


def test_dtype_auto_is_the_checkpoints_own(loaded):
    assert loaded.model.dtype == torch.float32
    assert loaded.model.config._attn_implementation == "sdpa"


def test_half_precision_answers_on_a_cpu(family):
    backend = TransformersBackend(str(tiny_checkpoint(family)), device="cpu", dtype="bfloat16")
    assert backend.model.dtype == torch.bfloat16
    (generation,) = answers(backend, [request("L1/1", family)])["L1/1"]
    assert not np.isnan(generation.logprobs).any()
    backend.close()
    backend.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [({"dtype": "int8"}, "auto, float32, bfloat16"), ({"device": "moon"}, "moon"), ({"device": "cuda"}, "no GPU")],
)
def test_options_that_do_not_fit(options, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=words):
        TransformersBackend(str(tiny_checkpoint("qwen2_5_vl")), **options)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A LoRA folder with weights that matter, and the base model with the adapter not merged."""
    peft = pytest.importorskip("peft")
    base = transformers.AutoModelForImageTextToText.from_pretrained(tiny_checkpoint("qwen2_5_vl"))
    torch.manual_seed(0)
    options = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(base, options).eval()
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    return folder, model


def test_a_gpu_is_used_without_cudnn_s_attention(monkeypatch):
    """It makes a plan for each new shape, and every prompt is one."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        resolve_device("cpu")
        assert torch.backends.cuda.cudnn_sdp_enabled()
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert resolve_device("auto").type == "cuda"
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def test_an_adapter_is_merged_into_its_base(adapter):
    folder, expected = adapter
    merged, _ = load_model(str(folder), base_model=None, revision=None, dtype="auto", device=resolve_device("cpu"))
    plain = transformers.AutoModelForImageTextToText.from_pretrained(tiny_checkpoint("qwen2_5_vl"))
    ids = torch.arange(20)[None]
    with torch.no_grad():
        with_adapter, without = expected(input_ids=ids).logits, plain(input_ids=ids).logits
        torch.testing.assert_close(merged(input_ids=ids).logits, with_adapter, rtol=0, atol=1e-4)
    assert (with_adapter - without).abs().max() > 0.1
    backend = TransformersBackend(str(folder), device="cpu")
    assert answers(backend, [request("L1/1")])["L1/1"][0].n_tokens


def test_an_adapter_without_a_reachable_base(adapter, tmp_path):
    folder, _ = adapter
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    for base, words in ((None, "names no base model"), (str(tmp_path / "gone"), "cannot be loaded")):
        settings["base_model_name_or_path"] = base
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
        with pytest.raises(ConfigError, match=f"{words}.*--base-model"):
            TransformersBackend(str(tmp_path), device="cpu")
    base = str(tiny_checkpoint("qwen2_5_vl"))
    assert TransformersBackend(str(tmp_path), base_model=base, device="cpu").model is not None


def test_an_adapter_without_peft(adapter, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install 'peft"):
        TransformersBackend(str(adapter[0]), device="cpu")


def test_weights_that_are_missing(tmp_path):
    make_tiny(tmp_path, "qwen2_5_vl")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="Cannot load the weights"):
        TransformersBackend(str(tmp_path), device="cpu")


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    make_tiny(tmp_path, "qwen2_5_vl")
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if "layers.1.self_attn.v_proj.weight" in name)
    safetensors.torch.save_file(
        {key: value for key, value in weights.items() if key != name}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ConfigError, match=r"lacks 1 weights.*layers\.1\.self_attn\.v_proj"):
        TransformersBackend(str(tmp_path), device="cpu")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error_that_says_so(tmp_path, temperature, value):
    make_tiny(tmp_path, "qwen2_5_vl")
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    weights[next(name for name in weights if name.endswith("model.norm.weight"))][0] = value
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    backend = TransformersBackend(str(tmp_path), device="cpu")
    sampling = SamplingConfig(temperature=temperature, top_p=0.9, max_new_tokens=4, logprobs=True)
    for results in answers(backend, [request("L1/1"), request("L1/2")], sampling).values():
        (failure,) = results
        assert failure.kind == "backend_error"
        assert "the model's logits are not finite" in failure.message


def change_weights(folder, change):
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    change(weights)
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})


def test_weights_without_a_place_and_of_another_size(tmp_path, caplog):
    make_tiny(tmp_path, "qwen2_5_vl")
    change_weights(tmp_path, lambda weights: weights.update({"v_head.weight": torch.zeros(2)}))
    assert TransformersBackend(str(tmp_path), device="cpu").model is not None
    assert "1 tensors of" in caplog.text
    assert "v_head.weight" in caplog.text
    change_weights(tmp_path, lambda weights: weights.update({"model.layers.0.q_proj.lora_A.weight": torch.zeros(2)}))
    with pytest.raises(ConfigError, match=r"adapter that was not merged, first \S+lora_A"):
        TransformersBackend(str(tmp_path), device="cpu")
    make_tiny(tmp_path, "qwen2_5_vl")
    change_weights(
        tmp_path, lambda weights: weights.update({n: v[:-1].clone() for n, v in weights.items() if "norm.weight" in n})
    )
    with pytest.raises(ConfigError, match="Cannot load the weights"):
        TransformersBackend(str(tmp_path), device="cpu")
