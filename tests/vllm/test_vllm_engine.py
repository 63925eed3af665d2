"""What is particular to the vLLM backend: options it must refuse, shared prefixes, adapters, signals, dying engines."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest
import torch

from seedbench_r1.errors import ConfigError, ResourceError
from seedbench_r1.types import Failure, Generation, SamplingConfig
from tests.tiny_models import request, tiny_checkpoint
from tests.unit.test_thinking import OPENED, TOLD
from tests.vllm.conftest import open_vllm

GREEDY = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=8)
FREE = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=8)


def one(backend, asked, sampling=GREEDY):
    ((_, result),) = backend.generate(iter([asked]), sampling)
    return result


def test_forbidden_tokens_are_never_drawn(qwen2_5_vl, monkeypatch):
    free = one(qwen2_5_vl, request("L1/0"))
    forbidden = dataclasses.replace(qwen2_5_vl.processor, forbidden_ids=free.token_ids)
    monkeypatch.setattr(qwen2_5_vl, "processor", forbidden)
    assert set(free.token_ids).isdisjoint(one(qwen2_5_vl, request("L1/0")).token_ids)


def test_generations_of_a_question_share_its_prompt(qwen2_5_vl, monkeypatch):
    cached, step = [], qwen2_5_vl._engine.step

    def watched():
        outputs = step()
        cached.extend(output.num_cached_tokens for output in outputs if output.finished)
        return outputs

    monkeypatch.setattr(qwen2_5_vl._engine, "step", watched)
    asked = request("L1/0", n_frames=8, cells=(8, 8))
    results = list(qwen2_5_vl.generate(iter([asked]), dataclasses.replace(FREE, n=4)))
    (length,) = {generation.n_prompt_tokens for _, generation in results}
    assert len(results) == 4
    # whole blocks of 128 tokens are shared (vLLM's block on a CPU), and the last token is never taken from the cache
    assert sorted(cached) == [0] + 3 * [(length - 1) // 128 * 128]
    assert max(cached) >= 256


@pytest.mark.parametrize(
    "options", [{"temperature": 0.001}, {"temperature": 2.5}, {"temperature": 1.0, "top_p": 0.0}, {"max_new_tokens": 0}]
)
def test_options_that_vllm_would_change_or_refuse(qwen2_5_vl, options):
    with pytest.raises(ConfigError, match="vLLM"):
        one(qwen2_5_vl, request("L1/0"), dataclasses.replace(GREEDY, **options))


def test_frames_that_would_be_resized_are_a_failure(qwen2_5_vl):
    asked = request("L1/0", "qwen3_vl")  # multiples of 32, not of 28
    result = one(qwen2_5_vl, asked)
    assert isinstance(result, Failure)
    assert "multiple of 28" in result.message


def test_another_count_of_prompt_tokens_is_a_failure(qwen2_5_vl, monkeypatch):
    """As if the engine read the checkpoint's processor differently: one frame per temporal patch here, two there."""
    layout = dataclasses.replace(qwen2_5_vl.processor.layout, temporal_patch=1)
    monkeypatch.setattr(qwen2_5_vl, "processor", dataclasses.replace(qwen2_5_vl.processor, layout=layout))
    result = one(qwen2_5_vl, request("L1/0", n_frames=4, cells=(2, 3)))
    assert isinstance(result, Failure)
    found, expected, _ = (int(word) for word in result.message.replace(",", " ").split() if word.isdigit())
    assert expected - found == 2 * 2 * 3  # two more temporal patches of 2 x 3 tokens


def test_ctrl_c_reaches_the_caller_and_not_the_engine(qwen2_5_vl):
    """A terminal signals the whole process group; what is in flight must still be finished."""
    results = qwen2_5_vl.generate(
        (request(f"L1/{i}") for i in range(8)), dataclasses.replace(GREEDY, max_new_tokens=60)
    )
    first = next(results)
    children = engine_processes()
    assert children
    for child in children:
        child.send_signal(signal.SIGINT)
    assert len([first, *results]) == 8


def test_a_context_above_the_models_is_refused():
    from seedbench_r1.backends.vllm import VllmBackend
    from seedbench_r1.backends.vllm_engine import EngineOptions

    with pytest.raises(ConfigError, match="max_model_len"):
        VllmBackend(str(tiny_checkpoint("qwen2_5_vl")), options=EngineOptions(max_model_len=100_000, eager=True))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A random LoRA adapter on attention of both the language model and the vision tower."""
    import peft
    import transformers

    base = tiny_checkpoint("qwen2_5_vl")
    model = transformers.AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "qkv"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapted = peft.get_peft_model(model, config)
    folder = tmp_path_factory.mktemp("adapter")
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapted(adapter):
    opened = open_vllm(adapter, base_model=str(tiny_checkpoint("qwen2_5_vl")))
    yield opened
    opened.close()


def test_an_adapter_answers_as_with_transformers(adapter, adapted, qwen2_5_vl):
    from seedbench_r1.backends.transformers import TransformersBackend

    sampling = dataclasses.replace(GREEDY, logprobs=True)
    asked = request("L1/0", n_frames=16, seconds=60.0)
    oracle = TransformersBackend(str(adapter), base_model=str(tiny_checkpoint("qwen2_5_vl")), device="cpu")
    expected, found = one(oracle, asked, sampling), one(adapted, asked, sampling)
    assert found.token_ids == expected.token_ids
    assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    assert one(qwen2_5_vl, asked, sampling).logprobs != pytest.approx(expected.logprobs, abs=1e-2)


def holds_memory(process: psutil.Process) -> bool:
    """False for one that has ended, also if whoever adopted it has not asked for its exit code yet."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_dead_engine_is_an_error_and_closing_leaves_nothing(qwen2_5_vl, adapted):
    """The last test of the adapter's engine: it is killed here."""
    mine = set(engine_processes())
    merged = adapted._merged.name
    cores = [process for process in mine if process.pid in engine_pids(adapted)]
    assert len(cores) == 1
    results = adapted.generate(iter([request("L1/0")]), dataclasses.replace(GREEDY, max_new_tokens=2000))
    threading.Timer(1.0, cores[0].kill).start()
    with pytest.raises(ResourceError, match="engine died"):
        list(results)
    adapted.close()
    adapted.close()
    assert not os.path.exists(merged)
    _, alive = psutil.wait_procs(mine - set(engine_processes_of(qwen2_5_vl)), timeout=60)
    assert not [process for process in alive if holds_memory(process)]
    assert isinstance(one(qwen2_5_vl, request("L1/0")), Generation)


LONELY = """
from tests.vllm.conftest import open_vllm
import sys, time
if __name__ == "__main__":
    backend = open_vllm(sys.argv[1])
    print("ready", flush=True)
    time.sleep(600)
"""


def test_the_engine_does_not_outlive_a_killed_parent(tmp_path):
    script = tmp_path / "lonely.py"
    script.write_text(LONELY)
    command = [sys.executable, str(script), str(tiny_checkpoint("qwen2_5_vl"))]
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": root})
    assert process.stdout.readline() == "ready\n"  # and nothing of vLLM's on standard output
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=40)
    assert not alive


def engine_processes():
    return [child for child in psutil.Process().children(recursive=True) if "VLLM" in " ".join(child.cmdline())]


def engine_pids(backend):
    return {process.pid for process in backend._engine.engine_core.resources.engine_manager.processes}


def engine_processes_of(backend):
    cores = [psutil.Process(pid) for pid in engine_pids(backend)]
    return cores + [child for core in cores for child in core.children(recursive=True)]


def test_a_whole_evaluation(qwen2_5_vl, data_root, tmp_path):
    """From video files to a run directory: decoding workers, feeder thread and engine together."""
    from seedbench_r1.config import resolve_eval_config
    from seedbench_r1.engines.plan import plan
    from tests.evaluation import evaluate
    from tests.vllm.test_vllm_contract import SameEngine

    given = {
        "model": str(tiny_checkpoint("qwen2_5_vl")),
        "data_root": data_root,
        "runs_dir": tmp_path,
        "max_new_tokens": 6,
        "max_pixels": 3136,
        "min_pixels": 784,
        "image_max_pixels": 3136,
        "image_min_pixels": 784,
    }
    planned = plan(resolve_eval_config(given, environ={}, working_dir=tmp_path))
    result = evaluate(planned, lambda config: SameEngine(qwen2_5_vl, 4))
    assert (result.unanswered, result.failed) == (0, 0)
    assert result.summary.status == "complete"


def test_the_end_token_is_not_part_of_a_generation(qwen2_5_vl):
    tokenizer = qwen2_5_vl.processor.tokenizer
    ends = {tokenizer.convert_tokens_to_ids(mark) for mark in ("<|im_end|>", "<|endoftext|>")}
    sampling = dataclasses.replace(FREE, n=8, max_new_tokens=200, logprobs=True)
    results = [result for _, result in qwen2_5_vl.generate(iter([request("L1/0")]), sampling)]
    assert any(result.finish_reason == "stop" for result in results)
    for result in results:
        assert ends.isdisjoint(result.token_ids)
        assert result.n_tokens == len(result.token_ids) == len(result.logprobs)
        assert (result.n_tokens < 200) == (result.finish_reason == "stop")


def test_a_template_is_told_to_think_or_not_to(qwen2_5_vl, monkeypatch):
    plain = qwen2_5_vl.processor
    listens = plain.chat_template.rstrip("\n") + TOLD.format(name="enable_thinking")
    monkeypatch.setattr(qwen2_5_vl, "processor", dataclasses.replace(plain, chat_template=listens))
    asked = [dataclasses.replace(request("L1/1"), question_id=told, thinking=told) for told in ("on", "off")]
    found = dict(qwen2_5_vl.generate(iter(asked), SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=2)))
    assert {told: answer.opened for told, answer in found.items()} == {"on": "<think>\n", "off": ""}
    for told in asked:
        whole = plain.tokenizer(plain.render(request("L1/1")) + OPENED[told.thinking])["input_ids"]
        placeholders = len(plain.prepare(request("L1/1")).input_ids) - len(plain.text_ids(request("L1/1")))
        assert found[told.question_id].n_prompt_tokens == len(whole) + placeholders
