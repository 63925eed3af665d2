"""A checkpoint's weight files, looked at without loading them: which there are, and whether they are whole."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from seedbench_r1.errors import ConfigError
from seedbench_r1.files import JsonObject, read_json_object
from seedbench_r1.models.locate import training_shards
from seedbench_r1.typed_json import Range, from_json, parse_json

_SUFFIXES = (".safetensors", ".bin", ".pt")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_ADAPTER = "adapter_config.json"
_FULL = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)")
# What trainers keep next to an adapter to go on from; it is no part of the model.
_STATE = re.compile(r"(optim|(lr_)?scheduler|scaler|rng|random_state|training_args|sampler|dl_state_dict).*")
_POINTER = 200  # bytes: what git leaves in place of a file that it keeps elsewhere
_PAGE = 4096  # bytes: a shorter run of zeros at a file's end is looked into no further
_ZERO_AT_FIRST = re.compile(r"lora_B|lora_embedding_B|bias")
_NO_TENSOR = "__metadata__"  # an entry of the header
_LONGEST_HEADER = 100_000_000  # bytes, as safetensors itself has it

# What transformers needs for a quantisation, by the name in config.json: package as imported, and as installed
_QUANTISED_BY = {
    "gptq": ("gptqmodel", "gptqmodel"),
    "awq": ("gptqmodel", "gptqmodel"),
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "compressed-tensors": ("compressed_tensors", "compressed-tensors"),
}


@dataclass(frozen=True, slots=True)
class _Tensor:
    """Of the header of a safetensors file."""

    data_offsets: tuple[Annotated[int, Range(0, 1 << 62)], Annotated[int, Range(0, 1 << 62)]]  # first byte, and end
    shape: tuple[int, ...] = ()


def weight_files(folder: Path) -> list[Path]:
    """Sorted weight files; optimiser state and the like do not count."""
    found = [path for path in folder.iterdir() if path.suffix in _SUFFIXES]
    # A folder may hold both forms of the same weights: loaders take safetensors.
    safetensors = [path for path in found if path.suffix == ".safetensors"]
    named = safetensors or [path for path in found if path.name.startswith(("pytorch_model", "adapter_model"))]
    return sorted(named, key=lambda path: path.name)


def check_weights(folder: Path) -> list[Path]:
    """The weight files of a folder, each of them whole.

    Raises:
        ConfigError: there are none, a shard of the index is absent, a file is shorter than its own header says, or the
            folder holds more than one model.
    """
    check_one_model(folder)
    found = weight_files(folder)
    if not found:
        shards = training_shards(folder)
        if shards is not None:
            raise ConfigError(f"{folder} holds no weights of a model, but {shards}")
        raise ConfigError(f"No weight files (*.safetensors) in {folder}. Was it copied or downloaded whole?")
    for name in _INDEXES:
        if (folder / name).is_file() and found[0].suffix == Path(name.removesuffix(".index.json")).suffix:
            _check_index(folder / name)
    for path in found:
        _check_whole(path)
    return found


def check_one_model(folder: Path) -> None:
    """Raise ConfigError if a folder holds two models, or weights next to an adapter that would not be applied."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (*_SUFFIXES, ".pth"))
    full = [name for name in names if _FULL.fullmatch(name)]
    adapter = [name for name in names if name.startswith("adapter_model.")]
    if _ADAPTER not in {path.name for path in folder.iterdir()}:
        if full and adapter:
            raise ConfigError(
                f"{folder} holds {full[0]} and {adapter[0]}, without {_ADAPTER}: a whole model, or an adapter? Fix: "
                f"move {adapter[0]} away if it is merged, and with its {_ADAPTER} into a folder of its own if not."
            )
        return
    if full:
        raise ConfigError(
            f"{folder} holds {full[0]} and {_ADAPTER}: a whole model, or an adapter? Fix: move {_ADAPTER} and "
            f"adapter_model.* into a folder of their own, and --model the one that is meant."
        )
    others = [name for name in names if name not in adapter and not _STATE.fullmatch(name)]
    if others:
        raise ConfigError(
            f"{folder} holds {others[0]} next to the adapter, which would not be applied. Fix: merge both into the "
            f"base with the tool that trained them, or move the file away if it is no part of the model."
        )


def _check_index(path: Path) -> None:
    shards = read_json_object(path, ConfigError).get("weight_map")
    if not isinstance(shards, dict):
        raise ConfigError(f"{path} has no weight_map. Fix: copy or download it again.")
    names = sorted({str(name) for name in shards.values()})
    whole = path.name.removesuffix(".index.json")
    if whole not in names and (path.parent / whole).is_file():
        raise ConfigError(
            f"{path.parent} holds {whole} and {path.name}, which names other files: two models. Fix: move {whole}, or "
            f"{path.name} and its {len(names)} files, away."
        )
    absent = [name for name in names if not (path.parent / name).is_file()]
    if absent:
        raise ConfigError(
            f"{path.parent} was not copied whole: {len(absent)} of {len(names)} weight files are absent, first "
            f"{absent[0]}. Fix: copy or download it again; what is there is kept."
        )


def _check_whole(path: Path) -> None:
    size = path.stat().st_size
    if path.suffix != ".safetensors":
        if not zipfile.is_zipfile(path):
            raise ConfigError(f"{path} is cut off or no weight file ({size} bytes). Fix: copy or download it again.")
        return
    with path.open("rb") as stream:
        n_header = int.from_bytes(stream.read(8), "little")
        header = stream.read(n_header) if n_header < _LONGEST_HEADER else b""
    try:
        tensors = from_json(dict[str, _Tensor], {k: v for k, v in dict(parse_json(header)).items() if k != _NO_TENSOR})
        wanted = 8 + n_header + max((tensor.data_offsets[1] for tensor in tensors.values()), default=0)
    except (ValueError, TypeError) as error:
        what = "a Git LFS pointer, not the file" if size < _POINTER else "cut off, or no safetensors file"
        raise ConfigError(f"{path} is {what} ({size} bytes). Fix: copy or download it again.") from error
    if size != wanted:
        raise ConfigError(f"{path} is not whole: {size} of {wanted} bytes. Fix: copy or download it again.")
    _check_tail(path, 8 + n_header, tensors)


def _check_tail(path: Path, start: int, tensors: dict[str, _Tensor]) -> None:
    """Raise ConfigError for a file that ends in zeros over several matrices, as a copy that was broken off leaves it.

    Programs that reserve a file's size first leave zeros where nothing was written, which load like any weights. Legal
    are one matrix of zeros, biases, the second factors of LoRA before a training, and zeros at a matrix's end (padding
    of a vocabulary).
    """
    zeros, block = path.stat().st_size, _PAGE
    with path.open("rb") as stream:
        while zeros > start:
            stream.seek(max(start, zeros - block))
            data = stream.read(zeros - stream.tell())
            written = data.rstrip(b"\0")
            zeros -= len(data) - len(written)
            if written:
                break
            block = 1 << 20
    lost = sorted(
        (first, name)
        for name, tensor in tensors.items()
        for first, end in (tensor.data_offsets,)
        if start + first >= zeros and end - first >= _PAGE and len(tensor.shape) > 1 and not _ZERO_AT_FIRST.search(name)
    )
    if len(lost) > 1:
        raise ConfigError(
            f"{path} ends in zeros, as after a copy that was broken off: {len(lost)} matrices of it hold nothing else, "
            f"first {lost[0][1]}. Fix: copy or download it again."
        )


def quantisation(config: JsonObject) -> str | None:
    """How a checkpoint is quantised, by the name in its config.json; None if it is not."""
    settings = config.get("quantization_config")
    if not isinstance(settings, dict):
        return None
    method = str(settings.get("quant_method", "unknown"))
    return f"{method}-{settings['bits']}bit" if isinstance(settings.get("bits"), int) else method


def check_quantisation(model: str, config: JsonObject) -> None:
    """Raise ConfigError if transformers lacks what this checkpoint's quantisation needs."""
    method = (quantisation(config) or "").partition("-")[0]
    method = "compressed-tensors" if method == "compressed" else method
    if not method:
        return
    package, name = _QUANTISED_BY.get(method, (None, None))
    if package is not None and find_spec(package) is None:
        raise ConfigError(
            f"{model} is quantised ({method}), for which transformers needs {name}. Fix: pip install {name}, or "
            f"--backend vllm, which brings its own, or the checkpoint that was not quantised."
        )
