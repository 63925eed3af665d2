"""Starting a vLLM engine, and speaking its language: pixels, sampling options, errors.

Written for vLLM 0.32 and 0.33. vllm is imported inside functions, never with this module.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from seedbench_r1.backends.loading import load_model
from seedbench_r1.backends.sampling import row_generator
from seedbench_r1.backends.saving import save_model
from seedbench_r1.config import set_environment_defaults
from seedbench_r1.errors import ConfigError, ResourceError
from seedbench_r1.files import JsonObject, read_json_object
from seedbench_r1.models.any_processor import AnyProcessor
from seedbench_r1.models.checkpoint import Checkpoint
from seedbench_r1.models.families import GenericFamily, family_for
from seedbench_r1.models.generic import GenericProcessor
from seedbench_r1.types import Request, SamplingConfig

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.engine.arg_utils import EngineArgs
    from vllm.multimodal.inputs import PlaceholderRange
    from vllm.v1.engine.llm_engine import LLMEngine

log = logging.getLogger(__name__)

CLOSE_S = 30.0  # vLLM's own limit is 5: too short on a busy machine, and a killed worker leaves shared memory behind
# vLLM's engine outlives a parent that is killed, and keeps the GPU's memory. This small process sees the end of its
# standard input when that happens, asks the engine to end, and kills what is left of it ten seconds later.
GUARD = """
import os, signal, sys, time
sys.stdin.read()
for number, pause in ((signal.SIGTERM, 10), (signal.SIGKILL, 0)):
    for pid in map(int, sys.argv[1:]):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
    time.sleep(pause)
"""
LOWEST_TEMPERATURE = 0.01  # vllm.sampling_params._MAX_TEMP: between 0 and this, vLLM would use this


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How vLLM uses the machine. None of it is part of the protocol."""

    tensor_parallel: int = 1  # GPUs that share one copy of the model
    max_in_flight: int = 128  # generations in the engine at once
    gpu_memory_utilization: float = 0.9  # share of each GPU's memory for weights, activations and cache
    max_model_len: int | None = None  # prompt and completion in tokens; None: the model's own, or less if that fits
    trust_remote_code: bool = False
    frames_as_images: int = 0  # of a clip at most, for models that take no clips
    eager: bool = False  # no compilation, no CUDA graphs: starts faster, answers slower


VLLM_ENVIRONMENT = {  # vLLM and its child processes read these from the environment only
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # standard output is for results
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_COLOR": "0",  # its colours would be shown as text (terminal.py)
    "VLLM_NO_USAGE_STATS": "1",  # it would report to its makers' server
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # by now this process has threads
}


def check_vllm(asked: str = "Backend 'vllm'", otherwise: str = "--backend transformers") -> None:
    """Raise ConfigError unless vLLM can really be imported. `import vllm` alone succeeds without its compiled parts.

    asked: what needs vLLM; otherwise: the option that does without.
    """
    set_environment_defaults(VLLM_ENVIRONMENT)
    try:
        from vllm import LLM  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == "vllm"
        why = "not installed" if absent else f"does not import: {error}"
        raise ConfigError(
            f"{asked} requested but {why} (python {sys.executable}). "
            f"Fix, in the checkout: pip install '.[vllm]'  or  {otherwise}"
        ) from error


def check_family(checkpoint: Checkpoint) -> None:
    """Raise ConfigError for a family that vLLM is known to answer otherwise; warn where it may."""
    folder = checkpoint.base_folder or checkpoint.folder
    family = family_for(checkpoint.config.get("model_type"), folder, trust_remote_code=True)
    if not isinstance(family, GenericFamily):
        return
    if family.vllm_refused is not None:
        raise ConfigError(
            f"vLLM is not used for {family.model_type} models: {family.vllm_refused}. Fix: --backend transformers"
        )
    if family.vllm_doubt is not None:
        log.warning("vLLM may answer otherwise than transformers here: %s (docs/models.md)", family.vllm_doubt)


def render(
    engine: LLMEngine,
    processor: AnyProcessor,
    request: Request,
    expected: list[int],
    text_ids: Sequence[int] | None = None,
) -> object:
    """The engine's form of a request: prompt tokens and normalised patches, made by vLLM.

    expected: the prompt's token ids by processor.prepare; text_ids: those that it is made of, if not
    processor.text_ids(request). Raises ValueError if vLLM's differ from them, that is, if it would show the model
    anything but our prompt, or put pixels elsewhere.
    """
    prompt = {
        "prompt_token_ids": processor.text_ids(request) if text_ids is None else list(text_ids),
        "multi_modal_data": media_of(request, as_images=processor.preprocess == "images"),
        "mm_processor_kwargs": processor.overrides,
    }
    (rendered,) = engine.renderer.render_cmpl([prompt])
    found = rendered["prompt_token_ids"]
    # vLLM may write a clip with another of the placeholders, and puts the same embeddings there.
    if _one_placeholder(found, processor) != _one_placeholder(expected, processor):
        raise ValueError(
            f"vLLM made {len(found)} prompt tokens of this request, {len(expected)} were expected; they differ from "
            f"number {_first_difference(found, expected)} on: it resized or resampled the frames, tells other times, "
            "or reads the checkpoint's processor differently"
        )
    if isinstance(processor, GenericProcessor) and processor.family.shared_placeholder:
        places, marks = _embedded(rendered["mm_placeholders"]), processor.placeholder_ids
        # vLLM takes a clip's most frequent token for its placeholder; where it is another, its engine dies.
        if places != [place for place, token in enumerate(found) if token in marks]:
            raise ValueError("vLLM puts pixels where this request has text: its frames are too small")
    return rendered


def _embedded(ranges: Mapping[str, Sequence[PlaceholderRange]]) -> list[int]:
    """Which of the prompt's tokens vLLM replaces by the embeddings of pixels."""
    found: list[int] = []
    for one in itertools.chain.from_iterable(ranges.values()):
        places = range(one.offset, one.offset + one.length)
        found += places if one.is_embed is None else itertools.compress(places, one.is_embed.tolist())
    return sorted(found)


def _first_difference(found: list[int], expected: list[int]) -> int:
    pairs = zip(found, expected, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(found), len(expected)))


def _one_placeholder(ids: list[int], processor: AnyProcessor) -> list[int]:
    marks = processor.placeholder_ids
    return [marks[0] if token in marks else token for token in ids] if marks else ids


def media_of(request: Request, *, as_images: bool = False) -> dict[str, list[object]]:
    """Pixels in the form that vLLM takes for clips decoded by others; their metadata says what it must not do again.

    as_images: a clip's frames as images before the current view, for models that take no clips.
    """
    if as_images and request.frames is not None:
        return {"image": [*request.frames, *([] if request.image is None else [request.image])]}
    media: dict[str, list[object]] = {}
    if request.image is not None:
        media["image"] = [request.image]
    if request.frames is not None:
        if not request.native_fps or not request.n_total:
            raise ValueError("a clip needs native_fps and n_total: they set the model's sense of time")
        about = {
            "fps": request.native_fps,
            "total_num_frames": request.n_total,
            "frames_indices": list(request.clock_indices),
            "duration": request.n_total / request.native_fps,
            "video_backend": request.reader or "decord",
            "do_sample_frames": False,
        }
        media["video"] = [(request.frames, about)]
    return media


def sampling_params(
    sampling: SamplingConfig, question_id: str, k: int, forbidden_ids: tuple[int, ...], end_ids: tuple[int, ...] = ()
) -> SamplingParams:
    """Every option explicit, so that neither the checkpoint nor vLLM fills one in. Raises ConfigError.

    end_ids: tokens that end a completion, besides those that the checkpoint declares.
    """
    from vllm import SamplingParams
    from vllm.exceptions import VLLMClientError
    from vllm.sampling_params import RequestOutputKind

    if 0 < sampling.temperature < LOWEST_TEMPERATURE:
        raise ConfigError(
            f"vLLM replaces temperature {sampling.temperature} by {LOWEST_TEMPERATURE}. Fix: --temperature 0 for "
            "greedy, or --backend transformers"
        )
    try:
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=0.0,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            max_tokens=sampling.max_new_tokens,
            seed=row_generator(sampling.seed, question_id, k).getrandbits(62),
            logprobs=0 if sampling.logprobs else None,  # 0: of the sampled token alone
            logit_bias=dict.fromkeys(forbidden_ids, float("-inf")),
            stop_token_ids=list(end_ids),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
    except (ValueError, VLLMClientError) as error:
        raise ConfigError(f"vLLM does not take these sampling options: {error}") from error


def checkpoint_dtype(config: JsonObject) -> str:
    """The dtype that a checkpoint's config.json declares, or "auto". vLLM's own "auto" makes bfloat16 of float32."""
    parts = (config, config.get("text_config") or {})
    declared = (part.get(key) for part in parts for key in ("dtype", "torch_dtype"))
    return next((str(dtype) for dtype in declared if dtype), "auto")


def engine_arguments(folder: Path, dtype: str, options: EngineOptions, **more: object) -> EngineArgs:
    """vLLM's EngineArgs for a checkpoint folder; `more` adds to them. Raises ValueError for what vLLM refuses."""
    from vllm.engine.arg_utils import EngineArgs

    return EngineArgs(
        model=str(folder),
        dtype=dtype,
        tensor_parallel_size=options.tensor_parallel,
        gpu_memory_utilization=options.gpu_memory_utilization,
        max_model_len=-1 if options.max_model_len is None else options.max_model_len,  # -1: what fits
        max_num_seqs=options.max_in_flight,
        enforce_eager=options.eager,
        generation_config="vllm",  # not the checkpoint's sampling defaults
        logprobs_mode="raw_logprobs",  # before temperature, penalties and forbidden tokens
        **_prefill_in_pieces(folder),
        limit_mm_per_prompt={"image": 1 + options.frames_as_images}
        | ({} if options.frames_as_images else {"video": 1}),
        mm_processor_cache_gb=0,  # no two questions share pixels
        disable_log_stats=True,
        trust_remote_code=options.trust_remote_code,
        **more,
    )


def _prefill_in_pieces(folder: Path) -> dict[str, object]:
    """Whether a prompt may be computed in pieces, and shared by its completions; not the former on a CPU.

    After each piece but the last, vLLM (0.32 and 0.33) takes back what a seeded generator has drawn, which CPU
    generators cannot: the engine would end. States (linear attention, short convolutions) are shared at the ends of
    pieces only.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return {"enable_prefix_caching": True}
    config = read_json_object(folder / "config.json", ConfigError)
    layers = (config.get("text_config") or {}).get("layer_types") or ()
    states = set(layers) - {"full_attention", "sliding_attention"}
    return {"enable_prefix_caching": not states, "enable_chunked_prefill": False}


def start_engine(folder: Path, dtype: str, options: EngineOptions) -> tuple[LLMEngine, subprocess.Popen[bytes]]:
    """A running LLMEngine in child processes, and its guard. Raises ConfigError or ResourceError."""
    from vllm.exceptions import VLLMClientError
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine

    resource_tracker.ensure_running()  # or it is started inside, and multiprocessing then unblocks SIGINT
    try:
        arguments = engine_arguments(folder, dtype, options)
        with _signals_blocked():
            engine = LLMEngine.from_engine_args(
                arguments, usage_context=UsageContext.LLM_CLASS, enable_multiprocessing=True
            )
    except (ValueError, OSError, VLLMClientError) as error:
        raise ConfigError(f"vLLM refuses {folder} or the options given: {error}") from error
    except RuntimeError as error:
        raise ResourceError(
            f"vLLM's engine did not start for {folder}: {error} Its own messages are above. If memory is short: "
            "--tensor-parallel 2, --max-model-len 8192, or free the GPU. Otherwise: --backend transformers"
        ) from error
    processes = engine.engine_core.resources.engine_manager.processes
    _watch(engine, [process.sentinel for process in processes])
    pids = [str(process.pid) for process in processes]
    guard = [sys.executable, "-I", "-S", "-c", GUARD, *pids]
    return engine, subprocess.Popen(guard, stdin=subprocess.PIPE, start_new_session=True)


def close_engine(engine: LLMEngine, guard: subprocess.Popen[bytes]) -> None:
    """End the engine's processes; those that do not end within CLOSE_S are killed."""
    engine.engine_core.shutdown(timeout=CLOSE_S)
    engine.renderer.shutdown()
    guard.kill()
    guard.communicate()


def _watch(engine: LLMEngine, sentinels: list[int]) -> None:
    """Have engine.step() raise EngineDeadError when an engine process is killed from outside, say for its memory.

    vLLM 0.32 notices it too, but the call that waits for output would then wait for ever.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    outputs = engine.engine_core.outputs_queue

    def report() -> None:
        wait(sentinels)
        outputs.put(EngineDeadError())

    threading.Thread(target=report, name="vllm-watch", daemon=True).start()


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Child processes started inside inherit a mask, and never see Ctrl-C or Slurm's warning.

    A terminal sends SIGINT to every process of the group. The engine would end at once, and with it the answers in
    flight that the first signal promises to finish. close() ends the engine by SIGTERM.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def engine_death_explained() -> Iterator[None]:
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise ResourceError(
            "vLLM's engine died; its own messages are above. What was answered is saved; the same command continues. "
            "If it ran out of memory: --tensor-parallel 2, or --max-model-len 8192"
        ) from error


def merge_adapter(checkpoint: Checkpoint, folder: Path, dtype: str, *, trust_remote_code: bool = False) -> Path:
    """Write base plus LoRA adapter as one checkpoint into `folder`, on the CPU; return the folder.

    The same sum as the transformers backend's. Raises ConfigError like loading.load_model, ResourceError if the disk or
    the memory does not suffice.
    """
    base = checkpoint.base_folder
    assert base is not None
    log.info("Merging the adapter %s into %s", checkpoint.folder, base)
    merged, _ = load_model(
        str(checkpoint.folder),
        base_model=str(base),
        revision=None,
        dtype=dtype,
        device=torch.device("cpu"),
        trust_remote_code=trust_remote_code,
    )
    try:
        save_model(merged, folder)
        for path in base.iterdir():  # tokeniser, chat template and processors
            wanted = path.suffix in (".json", ".jinja", ".txt", ".model", ".py") and "index" not in path.name
            if wanted and not (folder / path.name).exists():
                shutil.copyfile(path, folder / path.name)
    except OSError as error:
        raise ResourceError(
            f"The merged checkpoint of {checkpoint.folder} does not fit into {folder}: {error}. "
            "Fix: point TMPDIR to a bigger disk, or merge it yourself and give --model the result"
        ) from error
    return folder
