"""Where a model is: a folder, a hub repository, or a folder inside of one; and what to type where it is none."""

from __future__ import annotations

import difflib
import hashlib
import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath

from seedbench_r1.data.hub import named_errors
from seedbench_r1.errors import ConfigError
from seedbench_r1.files import writing
from seedbench_r1.models.fingerprint import PROCESSOR_FILES

CONFIGS = ("config.json", "adapter_config.json")  # one of them makes a folder a model
# org/name, then folders inside of the repository
_HUB_ID = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[\w.-]+)(?P<folder>(?:/[\w.-]+)*)/?")
# No *.bin: a repository that has both forms would be fetched twice.
_PATTERNS = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")


def find_folder(model: str, revision: str | None) -> Path:
    """The model's folder on this machine; a hub id is fetched into the hub's cache if it is not there yet.

    Args:
        model: a folder, `org/name`, or `org/name/folder/inside`.
        revision: branch, tag or commit of a hub id.

    Raises:
        ConfigError: there is no such model; the message says what was found instead.
    """
    folder = Path(model).expanduser()
    if is_model(folder):
        return folder
    hub_id = _HUB_ID.fullmatch(model)
    # "ckpt/car" next to "ckpt/care" is a slip, no repository.
    local = folder.exists() or (folder.parent != Path() and folder.parent.is_dir())
    if local or hub_id is None:
        raise ConfigError(_no_model_message(folder))
    return _fetch(hub_id["repository"], hub_id["folder"].strip("/"), revision)


def is_model(folder: Path) -> bool:
    """Whether a folder holds a checkpoint or an adapter."""
    return any((folder / name).is_file() for name in CONFIGS)


def _fetch(repository: str, inside: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    asked = f"{repository}/{inside}".rstrip("/")
    with named_errors(f"No folder {asked}, and the hub did not give {repository} at revision {revision or 'main'}"):
        _check_listing(repository, inside, revision)
        patterns = [f"{inside}/{pattern}" if inside else pattern for pattern in _PATTERNS]
        # The snapshot folder in the hub's cache; a commit that is there in full is not requested again.
        root = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    return root / inside


def _check_listing(repository: str, inside: str, revision: str | None) -> None:
    """Raise ConfigError, before anything is fetched, unless the repository holds a model there."""
    from huggingface_hub import HfApi, constants

    # A commit never changes, and offline the cache is all there is: what it lacks is said when it is looked for.
    if constants.HF_HUB_OFFLINE or re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        return
    files = HfApi().list_repo_files(repository, revision=revision)
    models = {str(PurePosixPath(name).parent) for name in files if PurePosixPath(name).name in CONFIGS}
    models = {"" if name == "." else name for name in models}
    if inside in models:
        return
    names = ", ".join(f"--model {repository}/{name}" for name in sorted(models, key=natural)[:6] if name)
    if not models:
        raise ConfigError(f"The hub's repository {repository} holds no model (no config.json). Nothing was fetched.")
    where = f"no {inside}" if inside else "no model at its top"
    raise ConfigError(
        f"The hub's repository {repository} holds {where}; it has {len(models)} in folders. Nothing was fetched. "
        f"Fix: {names or f'--model {repository}'}."
    )


def natural(name: str) -> list[tuple[int, str]]:
    """A sorting key by which checkpoint-20 comes before checkpoint-100."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _no_model_message(folder: Path) -> str:
    if not folder.is_dir():
        return _no_folder_message(folder)
    shards = training_shards(folder)
    if shards is not None:
        return f"No model at {folder}, but {shards}"
    inside = sorted((path.name for path in folder.iterdir() if is_model(path)), key=natural)
    if inside:
        return f"No model at {folder} itself. It holds {len(inside)}; the newest: --model {folder / inside[-1]}"
    return (
        f"No model at {folder} (no config.json, and no adapter_config.json). Was it copied whole? A checkpoint folder "
        f"holds config.json, the tokenizer's files and *.safetensors."
    )


def _no_folder_message(folder: Path) -> str:
    parent = folder.parent
    models = [path.name for path in parent.iterdir() if is_model(path)] if parent.is_dir() else []
    close = difflib.get_close_matches(folder.name, models, n=1, cutoff=0.6)
    hint = f" Did you mean {parent / close[0]}?" if close else ""
    if models and not close:
        hint = f" {parent} holds {', '.join(sorted(models, key=natural)[-3:])}."
    return f"No model at {folder}: there is no such folder.{hint} For a hub id use org/name or org/name/folder/inside."


def training_shards(folder: Path) -> str | None:
    """If a folder holds a training's shards instead of a model: whose they are, and the command that merges them."""

    def has(*patterns: str) -> bool:
        return any(True for pattern in patterns for _ in folder.glob(pattern))

    merged = folder / "merged"
    then = f"copy config.json, tokenizer and processor files of the base model there, and --model {merged}"
    if has("zero_to_fp32.py", "global_step*/*_model_states.pt", "*_model_states.pt"):
        return (
            f"DeepSpeed's shards. Fix: python {folder}/zero_to_fp32.py {folder} {merged} --safe_serialization, {then}"
        )
    # verl and EasyR1: model_world_size_4_rank_0.pt, in actor/
    for actor in (folder, folder / "actor"):
        if any(actor.glob("model_world_size_*_rank_*.pt")):
            return (
                f"verl's FSDP shards. Fix: python -m verl.model_merger merge --backend fsdp --local_dir {actor} "
                f"--target_dir {merged} (EasyR1: scripts/model_merger.py --local_dir {actor}), then --model {merged}"
            )
    sharded = next((path.parent for pattern in ("*.distcp", "*/*.distcp") for path in folder.glob(pattern)), None)
    if sharded is not None:
        return f"FSDP's shards. Fix: accelerate merge-weights {sharded} {merged}, {then}"
    return None


def with_processor(folder: Path, processor: str, views: Path) -> Path:
    """A folder of links in `views`: a model's files, with another's tokeniser, template and processor files.

    Args:
        folder: the model's.
        processor: folder or hub id of a model of the same family, of which only these small files are fetched.
        views: where the folder is made, once for each pair.

    Raises:
        ConfigError: there are no such files. ResourceError: the folder cannot be made.
    """
    source = Path(processor).expanduser()
    if not source.is_dir():
        hub_id = _HUB_ID.fullmatch(processor)
        if hub_id is None:
            raise ConfigError(f"--processor {processor}: no such folder, and no hub id (org/name).")
        source = _fetch_processor(hub_id["repository"], hub_id["folder"].strip("/"))
    files = {path.relative_to(source): path for name in PROCESSOR_FILES for path in source.glob(name)}
    if not files:
        raise ConfigError(f"--processor {processor} holds no tokenizer or processor files.")
    own = {path for name in PROCESSOR_FILES for path in folder.glob(name)}
    files |= {path.relative_to(folder): path for path in folder.iterdir() if path.is_file() and path not in own}
    identity = hashlib.sha256(f"{folder.resolve()}\n{source.resolve()}\n{sorted(map(str, files))}".encode()).hexdigest()
    view = views / identity[:16]
    if not view.is_dir():
        with writing(view):
            views.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(dir=views))
            for name, path in files.items():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                (temporary / name).symlink_to(path.resolve())
            try:
                temporary.replace(view)
            except OSError:
                # Another process has made it meanwhile, if it is there.
                shutil.rmtree(temporary)
                if not view.is_dir():
                    raise
    return view


def _fetch_processor(repository: str, inside: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [f"{inside}/{name}" if inside else name for name in PROCESSOR_FILES]
    with named_errors(f"--processor {repository}: no such folder, and the hub did not give it"):
        return Path(snapshot_download(repository, allow_patterns=patterns)) / inside
