"""seedbench-r1 data prepare: decode every question's media once, ahead of the runs that will read them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from seedbench_r1.cli import console
from seedbench_r1.cli.given_paths import data_root_explained
from seedbench_r1.cli.options import AsJson, ConfigFile, Given, with_settings
from seedbench_r1.config import EVAL_TABLE, GROUPS, TABLE, EvalConfig, resolve_eval_config
from seedbench_r1.config_file import read_config_file
from seedbench_r1.errors import ConfigError, DataError, ResourceError
from seedbench_r1.options import in_groups, settings_of
from seedbench_r1.questions import load_questions
from seedbench_r1.types import Failure, Media, Question, VideoConfig

if TYPE_CHECKING:
    from collections import Counter

# Of eval's settings, those that decide which pixels are decoded, and how
_NAMES = ("model", "base_model", "revision", "data_root", "levels", "frame_cache", "frame_cache_gb", "workers")
_ROWS = {name: TABLE[name] for name in (*_NAMES, "decode_timeout_s", *settings_of(VideoConfig))}


@with_settings(in_groups(_ROWS, GROUPS))
def prepare_command(given: Given, *, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Fill the frame cache. Call again to continue. Exit 4 if media are bad, 7 if the cache cannot be written.

    Give the pixel options that the runs will be given, and --model: its patch grid decides the sizes of Qwen3-VL.
    """
    resolved = _resolve(given, config)
    with data_root_explained(given, config):
        questions = load_questions(resolved.data_root, resolved.levels)
    bad, counts = _fill(questions, resolved)
    if as_json:
        done = {"schema": "sbr1.prepare/1", "questions": len(questions), "cache": dict(counts)}
        console.print_json(done | {"bad": bad, "exit_code": 4 if bad else 0})
    else:
        _print_result(len(questions), bad, counts, resolved)
    if bad:
        raise DataError(f"The media of {len(bad)} of {len(questions)} questions are bad; the others are in the cache.")


def _resolve(given: Given, config_file: Path | None) -> EvalConfig:
    """The settings that `eval` would use, with the model's own patch grid if a model is known."""
    file = read_config_file(config_file, Path(), EVAL_TABLE)
    model = given.get("model")
    # Other backends have no folder whose patch grid could be read.
    if model is None and file.get("backend", "transformers") in ("transformers", "vllm"):
        model = file.get("model")
    # resolve_eval_config wants a model; without one the default patch grid holds.
    unread = {"model": model or "none", "backend": "transformers"}  # nothing is loaded here
    resolved = resolve_eval_config(given | unread, config_file=config_file)
    if resolved.frame_cache is None:
        raise ConfigError("No frame cache given. Fix: seedbench-r1 data prepare --frame-cache DIR.")
    if model is None:
        return resolved
    from seedbench_r1.engines.plan import fit_to_model
    from seedbench_r1.models.checkpoint import inspect_model

    checkpoint = inspect_model(resolved.model, base_model=resolved.base_model, revision=resolved.revision)
    return fit_to_model(resolved, checkpoint)


def _fill(questions: list[Question], config: EvalConfig) -> tuple[dict[str, str], Counter[str]]:
    """Decode what is not there yet. Returns what is wrong with whose media, and what the cache did how often."""
    from seedbench_r1.media.cache import media_loader
    from seedbench_r1.media.loader import FrameLoader

    load = media_loader(config.frame_cache, config.frame_cache_gb)
    bad: dict[str, str] = {}
    with FrameLoader(config.video, workers=config.workers, timeout_s=config.decode_timeout_s, load=load) as loader:
        for question, media in _with_progress(loader.stream(questions), len(questions)):
            if isinstance(media, Failure):
                bad[question.question_id] = media.message
            # For an evaluation a broken cache costs time only; here filling it is all there is to do.
            if loader.cache_counts["unusable"]:
                raise ResourceError(
                    f"The frame cache {config.frame_cache} cannot be filled: see the warning above. "
                    f"What was stored stays; the same command continues."
                )
        return bad, loader.cache_counts


def _with_progress(
    stream: Iterator[tuple[Question, Media | Failure]], n_total: int
) -> Iterator[tuple[Question, Media | Failure]]:
    """The stream, with a bar on a terminal, and a line now and then elsewhere, on standard error."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    screen = console.err()
    live = console.is_live(screen)
    pace = console.LinePace()
    # disable keeps one code path for terminals and logs.
    with Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=screen, disable=not live) as bar:
        task = bar.add_task("", total=n_total)
        for n_done, item in enumerate(stream, start=1):
            yield item
            bar.advance(task)
            speed = None if live else pace.speed_if_due(n_done, n_total)
            if speed is not None:
                screen.print(f"{n_done} of {n_total} questions, {speed:.1f}/s")


def _print_result(n_questions: int, bad: dict[str, str], counts: Counter[str], config: EvalConfig) -> None:
    screen = console.out()
    for question_id, message in bad.items():
        screen.print(f"{question_id}: {message}", soft_wrap=True)
    text = f"{n_questions} questions: {counts['read']} were in {config.frame_cache}, {counts['written']} decoded"
    screen.print(f"{text} and stored, {len(bad)} bad", soft_wrap=True)
    # Entries pushed out others: the run that follows will decode some again.
    if counts["evicted"]:
        console.err().print(
            f"warning: {counts['evicted']} entries were evicted; with --frame-cache-gb {config.frame_cache_gb:g} "
            "not all of them fit",
            soft_wrap=True,
        )
