"""seedbench-r1 data prepare: decode every question's media once, ahead of the runs that will read them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seedbench_r1.errors import ConfigError, DataError, ResourceError

if TYPE_CHECKING:
    from collections import Counter

    from seedbench_r1.types import EvalConfig, Failure, Media, Question

PIXELS = "Pixels (give what the runs will be given)"
LINE_EVERY_S = 60.0  # off a terminal: a line so often, or for every so large share
LINE_EVERY_SHARE = 0.05


def _pixels(flag: str, text: str) -> Any:
    return typer.Option(flag, rich_help_panel=PIXELS, help=text, show_default=False)


def prepare_command(
    frame_cache: Annotated[Path | None, typer.Option("--frame-cache", help="Folder to fill.")] = None,
    frame_cache_gb: Annotated[
        float | None, typer.Option("--frame-cache-gb", help="Its limit in GB, 50.", show_default=False)
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Folder of annotations/, videos/, images/.", show_default=False)
    ] = None,
    levels: Annotated[str | None, typer.Option(help="Levels to decode, L1,L2,L3.", show_default=False)] = None,
    model: Annotated[
        str | None, _pixels("--model", "Checkpoint whose patch grid decides the sizes; needed for Qwen3-VL.")
    ] = None,
    fps: Annotated[float | None, _pixels("--fps", "Frames per second of clip, 2.")] = None,
    min_frames: Annotated[int | None, _pixels("--min-frames", "At least so many frames, 4.")] = None,
    max_frames: Annotated[int | None, _pixels("--max-frames", "At most so many frames, 16.")] = None,
    min_pixels: Annotated[int | None, _pixels("--min-pixels", "Per video frame, 100352.")] = None,
    max_pixels: Annotated[int | None, _pixels("--max-pixels", "Per video frame, 105369.")] = None,
    image_min_pixels: Annotated[int | None, _pixels("--image-min-pixels", "3136.")] = None,
    image_max_pixels: Annotated[int | None, _pixels("--image-max-pixels", "200704.")] = None,
    reader: Annotated[str | None, _pixels("--reader", "decord (default), pyav, torchcodec.")] = None,
    workers: Annotated[int | None, typer.Option(help="Decoding processes, 2.", show_default=False)] = None,
    decode_timeout_s: Annotated[
        float | None,
        typer.Option("--decode-timeout", help="Seconds before a stuck decoder is killed, 60.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file, by default ./seedbench-r1.toml.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Fill the frame cache. Call again to continue. Exit 4 if media are bad, 7 if the cache cannot be written."""
    from seedbench_r1.questions import load_questions

    given = dict(locals())
    options = {name: given[name] for name in given if name not in ("config", "as_json", "model", "load_questions")}
    resolved = _resolve(options, model, config)
    questions = load_questions(resolved.data_root, resolved.levels)
    bad, counts = _fill(questions, resolved)
    if as_json:
        done = {"schema": "sbr1.prepare/1", "questions": len(questions), "cache": dict(counts)}
        typer.echo(json.dumps(done | {"bad": bad, "exit_code": 4 if bad else 0}))
    else:
        _print_result(len(questions), bad, counts, resolved)
    if bad:
        raise DataError(f"The media of {len(bad)} of {len(questions)} questions are bad; the others are in the cache.")


def _resolve(options: dict[str, Any], model: str | None, config_file: Path | None) -> EvalConfig:
    """The settings that `eval` would use, with the model's own patch grid if a model is known."""
    from seedbench_r1.config import parse_levels, read_config_file, resolve_eval_config

    if options["levels"] is not None:
        options["levels"] = parse_levels(options["levels"])
    settings = read_config_file(config_file, Path())
    if model is None and settings.get("backend", "transformers") in ("transformers", "vllm"):
        model = settings.get("model")
    unread = {"model": model or "none", "backend": "transformers"}  # nothing is loaded here
    resolved = resolve_eval_config(options | unread, config_file=config_file)
    if resolved.frame_cache is None:
        raise ConfigError("No frame cache given. Fix: seedbench-r1 data prepare --frame-cache DIR.")
    if model is None:
        return resolved
    from seedbench_r1.engines.local import fit_size_multiple
    from seedbench_r1.models.checkpoint import inspect_model

    checkpoint = inspect_model(model, base_model=resolved.base_model, revision=resolved.revision)
    return fit_size_multiple(resolved, checkpoint)


def _fill(questions: list[Question], config: EvalConfig) -> tuple[dict[str, str], Counter[str]]:
    """Decode what is not there yet. Returns what is wrong with whose media, and what the cache did how often."""
    from seedbench_r1.media.cache import media_loader
    from seedbench_r1.media.loader import FrameLoader
    from seedbench_r1.types import Failure

    load = media_loader(config.frame_cache, config.frame_cache_gb)
    bad: dict[str, str] = {}
    with FrameLoader(config.video, workers=config.workers, timeout_s=config.decode_timeout_s, load=load) as loader:
        for question, media in _with_progress(loader.stream(questions), len(questions)):
            if isinstance(media, Failure):
                bad[question.question_id] = media.message
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

    from seedbench_r1.cli import console

    screen = console.err()
    live = console.is_live(screen)
    since, shown = time.monotonic(), 0
    with Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=screen, disable=not live) as bar:
        task = bar.add_task("", total=n_total)
        for n_done, item in enumerate(stream, start=1):
            yield item
            bar.advance(task)
            now = time.monotonic()
            often = now - since >= LINE_EVERY_S or (n_done - shown >= LINE_EVERY_SHARE * n_total and now - since >= 1.0)
            if often and not live:
                screen.print(f"{n_done} of {n_total} questions, {(n_done - shown) / (now - since):.1f}/s")
                since, shown = now, n_done


def _print_result(n_questions: int, bad: dict[str, str], counts: Counter[str], config: EvalConfig) -> None:
    from seedbench_r1.cli import console

    screen = console.out()
    for question_id, message in bad.items():
        screen.print(console.printable(f"{question_id}: {message}"), soft_wrap=True)
    text = f"{n_questions} questions: {counts['read']} were in {config.frame_cache}, {counts['written']} decoded"
    screen.print(console.printable(f"{text} and stored, {len(bad)} bad"), soft_wrap=True)
    if counts["evicted"]:
        console.err().print(
            f"warning: {counts['evicted']} entries were evicted; with --frame-cache-gb {config.frame_cache_gb:g} "
            "not all of them fit",
            soft_wrap=True,
        )
