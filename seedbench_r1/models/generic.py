"""Any image-text-to-text model of transformers whose processor takes decoded frames.

The processor makes all that its model's forward pass takes, from our frames with their times; which frames these are
is never left to it. A prompt is prefilled as the processor made it, alone (backends/prefill_each.py), so that no
knowledge of a family's tensors is needed to batch them. What differs between families is in families.GENERIC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seedbench_r1.errors import ConfigError, one_line
from seedbench_r1.models.families import GenericFamily
from seedbench_r1.models.templates import check_template_ends, opened_by_template, render_template
from seedbench_r1.types import Preprocess, Request

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig


@dataclass(frozen=True, slots=True)
class GenericInputs:
    """One prompt as its processor made it, on the CPU."""

    input_ids: torch.Tensor  # (L,) int64, placeholders expanded
    arguments: Mapping[str, Any]  # of the model's forward pass, input_ids (1, L) and attention_mask among them


@dataclass(frozen=True, slots=True)
class GenericProcessor:
    """A transformers processor, and what is asked of one."""

    family: GenericFamily
    processor: Any  # a transformers ProcessorMixin
    tokenizer: Any  # a transformers tokenizer
    chat_template: Any  # a text, or several by name
    opened: str  # what the template opens, if it decides, in the assistant's turn beyond its header, e.g. "<think>\n"
    context: int  # longest prompt plus completion, in tokens
    forbidden_ids: tuple[int, ...]  # placeholders of media, which no completion may contain

    @property
    def preprocess(self) -> Preprocess:
        """Who sizes what the model sees."""
        return self.family.preprocess

    @property
    def overrides(self) -> dict[str, bool]:
        """What the processor's own settings give way to: frames that lie on the model's grid stay as they are."""
        return ({"do_resize": False} if self.preprocess == "ours" else {}) | dict(self.family.options)

    @property
    def placeholder_ids(self) -> tuple[int, ...]:
        """Tokens whose embeddings are replaced by pixels': the image's and the clip's."""
        named = (getattr(self.processor, name, None) for name in ("image_token_id", "video_token_id"))
        video = self.tokenizer.convert_tokens_to_ids(getattr(self.processor, "video_token", None) or "")
        return tuple(dict.fromkeys(token for token in (*named, video) if isinstance(token, int)))

    def render(self, request: Request) -> str:
        """The chat template filled in, one placeholder per medium.

        Raises ValueError if they are not the request's, ConfigError as render_template.
        """
        text = render_template(self.processor, self.chat_template, self._messages(request), request.thinking)
        clips = int(request.frames is not None)
        images = int(request.image is not None)
        if self.family.preprocess == "images" and request.frames is not None:
            clips, images = 0, images + len(request.frames)
        for attribute, expected in (("image_token", images), ("video_token", clips)):
            mark = getattr(self.processor, attribute, None)
            if isinstance(mark, str) and text.count(mark) != expected:
                raise ValueError(f"the prompt has {text.count(mark)} times {mark}, the request {expected} of them")
        return text

    def opened_for(self, request: Request) -> str:
        """What the template opens for this request."""
        if request.thinking == "auto":
            return self.opened
        return opened_by_template(self.processor, self.chat_template, request.thinking)

    def text_ids(self, request: Request) -> list[int]:
        """The rendered prompt and the request's prefix as token ids, placeholders as they stand in it."""
        text = self.render(request) + request.prefix
        ids: list[int] = self.tokenizer(text, add_special_tokens=self._adds_special_tokens(text))["input_ids"]
        return ids

    def prepare(self, request: Request) -> GenericInputs:
        """The model's arguments for a request.

        Raises ValueError if clip metadata is missing, if placeholders and media differ, if the processor cannot take
        the frames, or if the prompt leaves no room in the model's context.
        """
        inputs = self._inputs(request)
        if len(inputs.input_ids) >= self.context:
            raise ValueError(f"the prompt has {len(inputs.input_ids)} tokens, the model's context is {self.context}")
        return inputs

    def expanded_ids(self, request: Request) -> list[int]:
        """The prompt's tokens, whether or not they fit. Raises ValueError as prepare does otherwise."""
        ids: list[int] = self._inputs(request).input_ids.tolist()
        return ids

    def _inputs(self, request: Request) -> GenericInputs:
        text = self.render(request) + request.prefix
        shared: dict[str, Any] = {"input_data_format": "channels_last"} | self.overrides
        images, videos, metadata = self._media(request)
        made = self.processor(
            text=[text],
            images=images or None,
            videos=videos or None,
            return_tensors="pt",
            text_kwargs={"add_special_tokens": self._adds_special_tokens(text)},
            images_kwargs=shared,
            **({"videos_kwargs": shared | {"do_sample_frames": False, "video_metadata": metadata}} if videos else {}),
        )
        return GenericInputs(made["input_ids"][0], dict(made))

    def _media(self, request: Request) -> tuple[list[Any], list[Any], list[dict[str, Any]]]:
        images = [] if request.image is None else [request.image]
        if request.frames is None:
            return images, [], []
        if self.family.preprocess == "images":
            # Where the template's messages have the clip: before the current view.
            return [*request.frames, *images], [], []
        return images, [request.frames], [clip_metadata(request)]

    def _messages(self, request: Request) -> list[dict[str, Any]]:
        if self.family.preprocess != "images" or request.frames is None:
            return [dict(message) for message in request.messages]
        fps = clip_metadata(request)["fps"]
        frames: list[dict[str, str]] = []
        for place in request.clock_indices:
            # Without line breaks, which Gemma's processor puts around images itself.
            frames += [{"type": "text", "text": f" Frame at {place / fps:.1f} s: "}, {"type": "image"}]
        frames.append({"type": "text", "text": " " if request.image is None else " Image: "})
        return [
            {**message, "content": _replaced(message["content"], frames)}
            if isinstance(message["content"], list | tuple)
            else dict(message)
            for message in request.messages
        ]

    def _adds_special_tokens(self, text: str) -> bool:
        """As transformers' apply_chat_template: not where the template has written the first one."""
        first = self.tokenizer.bos_token
        return not (first and text.startswith(first))


def clip_metadata(request: Request) -> dict[str, Any]:
    """Where the frames stand in the clip, by transformers' names. Raises ValueError if the request does not say."""
    if request.frames is None or not request.native_fps or not request.n_total:
        raise ValueError("a clip needs native_fps and n_total: they set the model's sense of time")
    if len(request.frames) != len(request.frame_indices):
        raise ValueError(f"{len(request.frames)} frames came with {len(request.frame_indices)} frame indices")
    return {
        "fps": request.native_fps,
        "total_num_frames": request.n_total,
        "frames_indices": list(request.clock_indices),
        "duration": request.n_total / request.native_fps,
        "video_backend": request.reader or "decord",
    }


def load_generic(
    model: str,
    family: GenericFamily,
    config: PreTrainedConfig,
    *,
    trust_remote_code: bool = False,
) -> GenericProcessor:
    """Open the processor of a checkpoint folder.

    Raises:
        ConfigError: its files are absent or damaged, it takes no clips, or there is no chat template.
    """
    import transformers

    processors: Any = transformers.AutoProcessor
    try:
        processor = processors.from_pretrained(model, trust_remote_code=trust_remote_code)
    # transformers raises whatever its parts raise for files that are absent, old or damaged.
    except Exception as error:
        raise ConfigError(
            f"Cannot load tokenizer and processor from {model}: {one_line(error)}. Fix: copy tokenizer*, "
            f"*processor_config.json and chat_template.* of the base model there, or --processor BASE_MODEL."
        ) from error
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or not hasattr(processor, "image_processor"):
        raise ConfigError(f"{model} has no processor that takes images: {type(processor).__name__} was found.")
    if family.preprocess != "images" and getattr(processor, "video_processor", None) is None:
        raise ConfigError(
            f"The processor of {model} takes no clips, although its family's does: it is another model's, or "
            f"video_preprocessor_config.json is absent. Fix: copy it from the base model, or --processor BASE_MODEL."
        )
    _check_fits(model, config, processor)
    template = getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)
    if not template:
        raise ConfigError(
            f"{model} has no chat template: neither chat_template.jinja, chat_template.json nor tokenizer_config.json "
            f"holds one. Fix: copy the base model's chat_template.json there, or --processor BASE_MODEL."
        )
    if isinstance(template, str):
        check_template_ends(template)
    return GenericProcessor(
        family=family,
        processor=processor,
        tokenizer=tokenizer,
        chat_template=template,
        opened=opened_by_template(processor, template),
        context=config.get_text_config().max_position_embeddings,
        forbidden_ids=_placeholder_ids(processor),
    )


def _check_fits(model: str, config: PreTrainedConfig, processor: Any) -> None:  # noqa: ANN401  # of any family
    """Raise ConfigError for a kind of model that is not decoded here, or for another model's processor."""
    text = config.get_text_config()
    if config.is_encoder_decoder or not isinstance(getattr(text, "max_position_embeddings", None), int):
        raise ConfigError(
            f"{model} is a {config.model_type!r} model, which does not continue a prompt of text and images. "
            f"Fix: serve it and --backend openai:{model}."
        )
    names = ("image_token_id", "image_token_index", "image_patch_id")
    wanted = next((value for name in names if isinstance(value := getattr(config, name, None), int)), None)
    known = _placeholder_ids(processor)
    largest = max(processor.tokenizer.get_vocab().values(), default=0)
    if (wanted is not None and known and wanted not in known) or largest >= text.vocab_size:
        raise ConfigError(
            f"The processor of {model} is not the model's: its placeholders are {', '.join(map(str, known))} and its "
            f"largest token is {largest}; config.json has {wanted} and {text.vocab_size} tokens. Fix: copy the base "
            f"model's tokenizer* and *processor_config.json there, or --processor BASE_MODEL."
        )


def _placeholder_ids(processor: Any) -> tuple[int, ...]:  # noqa: ANN401  # of any family
    found: set[int] = set()
    for name in ("image_token_ids", "video_token_ids", "image_token_id", "video_token_id"):
        value = getattr(processor, name, None)
        found |= {token for token in (value if isinstance(value, list) else [value]) if isinstance(token, int)}
    return tuple(sorted(found))


def _replaced(parts: Any, frames: list[dict[str, str]]) -> list[dict[str, Any]]:  # noqa: ANN401  # a message's content
    made: list[dict[str, Any]] = []
    for part in parts:
        made += frames if part["type"] == "video" else [part]
    return made
