"""Text-only chat models through transformers, for the local judge: batches of prompts, no media."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from seedbench_r1.backends.base import Result
from seedbench_r1.backends.batching import ready_batches
from seedbench_r1.backends.decoding import end_token_ids
from seedbench_r1.backends.loading import resolve_device
from seedbench_r1.errors import ConfigError, ResourceError
from seedbench_r1.models.templates import check_template_ends
from seedbench_r1.types import Generation, Request, SamplingConfig

if TYPE_CHECKING:
    from transformers import GenerationConfig


class TextModelBackend:
    """Any causal language model with a chat template, from a folder or hub id.

    Args:
        dtype: "auto" is the checkpoint's own.
        device: "auto" is the first GPU, or the CPU.

    Raises:
        ConfigError: no such model, no chat template, or an architecture that generates no text.
    """

    def __init__(self, model: str, *, dtype: str = "auto", device: str = "auto", batch_size: int = 8) -> None:
        import transformers

        self.device = resolve_device(device)
        self.batch_size = batch_size
        try:
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(model, padding_side="left")
            config = transformers.AutoConfig.from_pretrained(model)
            # A vision-language checkpoint has its text weights under other names, so its own class must load it.
            kind: Any = transformers.AutoModelForCausalLM
            if getattr(config, "vision_config", None) is not None:
                kind = transformers.AutoModelForImageTextToText
            loaded, report = kind.from_pretrained(model, dtype=dtype, output_loading_info=True)
        except (OSError, ValueError, ImportError, SafetensorError) as error:
            raise ConfigError(f"Cannot load a text model from {model}: {str(error).splitlines()[0]}") from error
        if report["missing_keys"]:  # transformers would go on with random weights in their place
            absent = sorted(report["missing_keys"])
            raise ConfigError(f"{model} lacks {len(absent)} weights of its architecture, first {absent[0]}")
        self.model: Any = loaded.to(self.device).eval()
        if self.tokenizer.chat_template is None:
            raise ConfigError(f"{model} has no chat template, so it cannot be asked anything. Use an instruct model.")
        if isinstance(self.tokenizer.chat_template, str):
            check_template_ends(self.tokenizer.chat_template)
        # Padding is masked; many tokenizers of causal models have no token for it.
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def generate(self, requests: Iterable[Request], sampling: SamplingConfig) -> Iterator[Result]:
        """Answer text-only requests in batches; see backends.base.Backend. sampling.n must be 1."""
        with contextlib.closing(ready_batches(requests, self.batch_size, _length)) as batches:
            for batch in batches:
                yield from self._answer(batch, sampling)

    def close(self) -> None:
        """Release the weights."""
        # The last reference: the memory is free before the next model is loaded.
        self.model = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _answer(self, batch: list[Request], sampling: SamplingConfig) -> list[Result]:
        # Latency is that of the batch: its rows end together.
        began = time.perf_counter()
        prompts = [
            self.tokenizer.apply_chat_template(_messages(request), tokenize=False, add_generation_prompt=True)
            for request in batch
        ]
        inputs = self.tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False).to(self.device)
        # The seed depends on the attempt, not on the batch; a verdict can still depend on its neighbours when sampling.
        torch.manual_seed(sampling.seed)
        try:
            output = self.model.generate(**inputs, generation_config=self._generation_config(sampling))
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                f"Out of memory on {self.device} with {len(batch)} prompts at once. Verdicts so far are saved. "
                f"Fix: a smaller --batch-size, or a smaller judge."
            ) from error
        # generate() returns the padded prompt in front of each completion.
        length = inputs["input_ids"].shape[1]
        return [
            (request.question_id, self._read(row[length:].tolist(), int(mask.sum()), began))
            for request, row, mask in zip(batch, output, inputs["attention_mask"], strict=True)
        ]

    def _read(self, tokens: list[int], n_prompt: int, began: float) -> Generation:
        ends = end_token_ids(self.model, self.tokenizer)
        # generate() pads rows that ended before the longest, so each is cut at its own end.
        stop = next((place for place, token in enumerate(tokens) if token in ends), None)
        kept = tokens if stop is None else tokens[:stop]
        return Generation(
            text=self.tokenizer.decode(kept, skip_special_tokens=True),
            token_ids=tuple(kept),
            finish_reason="length" if stop is None else "stop",
            n_prompt_tokens=n_prompt,
            n_tokens=len(kept),
            latency_s=time.perf_counter() - began,
        )

    def _generation_config(self, sampling: SamplingConfig) -> GenerationConfig:
        """Every option explicit: what is left open would be filled in from the checkpoint."""
        import transformers

        make_config: Any = transformers.GenerationConfig  # untyped there
        greedy = sampling.temperature == 0
        config: GenerationConfig = make_config(
            # Neutral values when greedy: transformers warns of filters that it will not use.
            do_sample=not greedy,
            temperature=1.0 if greedy else sampling.temperature,
            top_p=1.0 if greedy else sampling.top_p,
            top_k=sampling.top_k,
            repetition_penalty=sampling.repetition_penalty,
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=sorted(end_token_ids(self.model, self.tokenizer)),
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return config


def _messages(request: Request) -> list[dict[str, str]]:
    """Parts joined: many text models' templates take plain strings only."""
    return [
        {"role": message["role"], "content": "".join(part["text"] for part in message["content"])}
        for message in request.messages
    ]


def _length(request: Request) -> int:
    return sum(len(message["content"]) for message in _messages(request))
