"""Tokenizer, chat template and pixel statistics of a checkpoint, by transformers.

AutoProcessor builds image and video processors, which nothing here calls, and imports torchvision and torch._dynamo for
them: two seconds. What they would hold stands in the folder's files, and is read there where that is beyond doubt.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seedbench_r1.errors import ConfigError, one_line
from seedbench_r1.files import JsonObject, read_json_object

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Classes that take image_mean and image_std from their file as they stand, and whose prompt is the bare template.
_KNOWN = {
    "processor_class": ("Qwen2VLProcessor", "Qwen2_5_VLProcessor", "Qwen3VLProcessor"),
    "image_processor_type": ("Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast", "Qwen2VLImageProcessorPil"),
    "video_processor_type": ("Qwen2VLVideoProcessor", "Qwen3VLVideoProcessor"),
}


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean and standard deviation of pixels scaled to 0..1, by colour."""

    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    video_mean: tuple[float, ...]
    video_std: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ProcessorParts:
    """What the prompts of one checkpoint take."""

    tokenizer: Any  # a transformers tokenizer
    renderer: Any  # what has apply_chat_template: a transformers processor or tokenizer
    chat_template: str | None
    statistics: Statistics


def open_processor(model: str, revision: str | None) -> ProcessorParts:
    """Load the parts from a folder or hub id. Raises ConfigError if its files are absent, old or damaged."""
    try:
        return _from_files(Path(model)) or _from_processor(model, revision)
    # transformers raises whatever its parts raise for files that are absent, old or damaged.
    except Exception as error:
        raise ConfigError(
            f"Cannot load tokenizer and processor from {model}: {one_line(error)}. Fix: copy tokenizer*, "
            f"*processor_config.json and chat_template.* of the base model there, or --processor BASE_MODEL."
        ) from error


def read_config(model: str, revision: str | None) -> PreTrainedConfig:
    """config.json of a folder or hub id as its class. Raises ConfigError if there is none or it is damaged."""
    import transformers

    if (Path(model).is_dir() or model.startswith(("/", "."))) and not (Path(model) / "config.json").is_file():
        raise ConfigError(f"No model at {model} (no config.json). For a Hub id use org/name.")
    try:
        config: PreTrainedConfig = transformers.AutoConfig.from_pretrained(model, revision=revision)
    # transformers raises whatever its classes raise for values of other types than they expect.
    except Exception as error:
        raise ConfigError(f"Cannot read the configuration of {model}: {one_line(error)}") from error
    return config


def _from_processor(model: str, revision: str | None) -> ProcessorParts:
    import transformers

    processors: Any = transformers.AutoProcessor
    loaded = processors.from_pretrained(model, revision=revision)
    image, video, tokenizer = loaded.image_processor, loaded.video_processor, loaded.tokenizer
    statistics = Statistics(
        tuple(image.image_mean), tuple(image.image_std), tuple(video.image_mean), tuple(video.image_std)
    )
    # Qwen's own fine-tuning script saves a tokenizer, and with it the only copy of the template.
    template = getattr(loaded, "chat_template", None) or getattr(tokenizer, "chat_template", None)
    return ProcessorParts(tokenizer, loaded, template, statistics)


def _from_files(folder: Path) -> ProcessorParts | None:
    """The same, without a processor's object; None where only AutoProcessor can say what the files mean."""
    statistics = _stated_statistics(folder)
    if statistics is None or (folder / "additional_chat_templates").exists():
        return None
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    old, new = folder / "chat_template.json", folder / "chat_template.jinja"
    template = getattr(tokenizer, "chat_template", None)
    if old.is_file():
        template = read_json_object(old, ConfigError).get("chat_template")
    elif new.is_file():
        template = new.read_text(encoding="utf-8")
    # Several templates by name, or none.
    if not isinstance(template, str):
        return None
    return ProcessorParts(tokenizer, tokenizer, template, statistics)


def _stated_statistics(folder: Path) -> Statistics | None:
    """What the processors' files say, if all of them say the same and name classes that are known to believe them."""
    names = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
    both, image, video = (
        read_json_object(folder / name, ConfigError) if (folder / name).is_file() else None for name in names
    )
    nested = both or {}
    # Versions of transformers differ in which of these they read first; without one of its own, clips are as images.
    images = [section for section in (nested.get("image_processor"), image) if section is not None]
    clips = [section for section in (nested.get("video_processor"), video) if section is not None] or [image]
    sections = [nested, *images, *clips]
    if not images or not all(isinstance(section, dict) and _plainly_known(section) for section in sections):
        return None
    if "chat_template" in nested or not all("image_processor_type" in section for section in images):
        return None
    stated = [
        {_numbers(section.get(name)) for section in some}
        for some in (images, clips)
        for name in ("image_mean", "image_std")
    ]
    # What a file leaves out, a class fills in.
    if any(None in values or len(values) != 1 for values in stated):
        return None
    return Statistics(*(value for values in stated for value in values if value is not None))


def _plainly_known(section: JsonObject) -> bool:
    """Whether a file names no class but known ones, and no code of its own."""
    return "auto_map" not in section and all(
        section[key] in known for key, known in _KNOWN.items() if section.get(key) is not None
    )


def _numbers(value: object) -> tuple[float, ...] | None:
    if not isinstance(value, list) or len(value) != 3 or not all(type(item) in (int, float) for item in value):
        return None
    return tuple(value)
