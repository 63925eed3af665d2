"""seedbench-r1 import: other evaluators' result files become a run directory."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seedbench_r1.cli import console
from seedbench_r1.cli.given_paths import data_root_explained
from seedbench_r1.cli.options import plain_option
from seedbench_r1.config import find_data_root, resolve_eval_config
from seedbench_r1.errors import ConfigError, DataError, IncompleteRun
from seedbench_r1.types import LEVELS, to_json

if TYPE_CHECKING:
    from seedbench_r1.runs.imports import ImportReport, ImportTarget
    from seedbench_r1.runs.result_files import ImportedFile

app = typer.Typer(help="Other evaluators' results become a run directory.", no_args_is_help=True)

# A command for each reader of runs.imports, under the same name; all take the same options.
HELP = {
    "grpo-care": "Import eval_16frames_seed_bench_r1_L1_results.json, eval_32frames_mvbench_results.json and the like. "
    "Exit 5 if answers are missing.",
    "seed-bench-r1": "Import eval_results_for_validation_L1.jsonl and the like, by sample id. "
    "Exit 5 if answers are missing.",
    "predictions": "Import JSON lines, a JSON list or CSV of question_id (or level and id) and response. "
    "Exit 5 if answers are missing.",
    "lmms-eval": "Import <date>_samples_<task>.jsonl of SEED-Bench-R1 tasks. Exit 5 if answers are missing.",
}


def _add_command(source: str) -> None:
    @app.command(source, help=HELP[source])
    def command(
        files: Annotated[list[Path], typer.Argument(help="Result files, one or more levels.", show_default=False)],
        *,
        data_root: Annotated[Path | None, plain_option("--data-root", help="Its annotations give N.")] = None,
        level: Annotated[str | None, plain_option("--level", help="If the file's name does not say.")] = None,
        model_name: Annotated[str | None, plain_option("--model-name", help="Default: the file's folder.")] = None,
        run_name: Annotated[str | None, plain_option("--run-name", help="Name of the run directory.")] = None,
        transfer_files: Annotated[
            Path | None, plain_option("--transfer-files", help="Of general benchmarks: folder of eval_*.json.")
        ] = None,
        questions: Annotated[
            Path | None, plain_option("--questions", help="Your own questions, as for eval --suite own.")
        ] = None,
        mapping: Annotated[str | None, plain_option("--map", help="Their columns, as for eval.")] = None,
        runs_dir: Annotated[Path, typer.Option("--runs-dir", help="Where run directories go.")] = Path("runs"),
        as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
    ) -> None:
        # Imported when needed: `--help` stays quick.
        from seedbench_r1.runs import imports, result_files

        for path in files:
            if not path.is_file():
                raise DataError(f"{path} is {'a folder' if path.is_dir() else 'not there'}. Fix: give a result file.")
        if source != "predictions" and (questions or mapping):
            raise ConfigError(f"Your own questions are not known to {source}. Fix: import predictions.")
        # All files are read before anything is written: a bad one leaves no half a run.
        read = [result_files.READERS[source](path, level) for path in files]
        with data_root_explained({"data_root": data_root}):
            if questions is not None:
                target = _own_target(questions, mapping, data_root)
            else:
                target = _target(read, find_data_root(data_root), transfer_files)
            report = imports.import_files(
                read,
                target,
                runs_dir,
                source=source,
                # The file's own name says the benchmark; its folder usually says the model.
                model_name=model_name or files[0].absolute().parent.name,
                run_name=run_name,
                command=shlex.join(["seedbench-r1", *sys.argv[1:]]),
            )
        if as_json:
            console.print_json({"schema": "sbr1.import/1", **to_json(report)})
        else:
            _print(report, source)
        # Reported after the run directory exists, so that it can be looked at.
        missing = sum(len(ids) for ids in report.gaps.values())
        if missing:
            raise IncompleteRun(
                f"{missing} questions have no answer in these files: the run is INCOMPLETE, not ranked."
            )


def _target(files: list[ImportedFile], data_root: Path, transfer_files: Path | None) -> ImportTarget:
    """All questions of the splits that the files speak of. Raises ConfigError for splits of two suites or of none."""
    from seedbench_r1.runs.imports import ImportTarget
    from seedbench_r1.suites import find_suite
    from seedbench_r1.suites.transfer import BENCHMARKS

    named = {a.question_id.partition("/")[0] for file in files for a in file.answers if a.question_id is not None}
    splits = named | {file.split for file in files if file.split is not None}
    given: dict[str, Any] = {"model": "none", "backend": "transformers", "data_root": data_root}
    if splits and splits <= set(LEVELS):
        suite, given = "seedbench-r1", given | {"levels": ",".join(splits)}
    elif splits and splits <= set(BENCHMARKS):
        suite, given = "transfer", given | {"benchmarks": ",".join(splits), "transfer_files": transfer_files}
    else:
        known = ", ".join((*LEVELS, *BENCHMARKS))
        raise ConfigError(
            f"The files speak of {', '.join(sorted(splits)) or 'no questions'}. Known, of one suite: {known}."
        )
    config = resolve_eval_config({name: value for name, value in given.items() if value is not None} | {"suite": suite})
    found = find_suite(suite)
    questions = found.load(config)
    return ImportTarget(suite, questions.splits, questions.files, found.group_of)


def _own_target(questions: Path, mapping: str | None, data_root: Path | None) -> ImportTarget:
    """A file of one's own questions, read and hashed as evaluation does."""
    from seedbench_r1.runs.imports import ImportTarget
    from seedbench_r1.suites import find_suite, resolve

    given = {"suite": "own", "model": "none", "questions": questions, "map": mapping, "data_root": data_root}
    config = resolve({name: value for name, value in given.items() if value is not None})
    found = find_suite("own")
    read = found.load(config)
    return ImportTarget("own", read.splits, read.files, found.group_of, read.hashes())


for _source in HELP:
    _add_command(_source)


def _print(report: ImportReport, source: str) -> None:
    screen = console.out()
    for level, group in report.summary.splits.items():
        screen.print(
            f" {level}  {group.answered}/{group.n} answered, correct {group.correct} by our rules, "
            f"{group.strict_correct} by the strict rule",
            soft_wrap=True,
        )
    # lmms-eval's samples claim nothing that could be compared.
    if source in ("grpo-care", "seed-bench-r1"):
        screen.print(f" the files claim {report.claimed_correct} correct", soft_wrap=True)
        if report.claim_differs:
            some = ", ".join(report.claim_differs[:5])
            screen.print(
                f" {len(report.claim_differs)} claims differ from the strict rule, e.g. {some}", soft_wrap=True
            )
    if report.duplicates:
        some = ", ".join(report.duplicates[:5])
        screen.print(f" {len(report.duplicates)} answers are repeated (the first counts), e.g. {some}", soft_wrap=True)
    for level, ids in report.gaps.items():
        screen.print(f" {level}: {len(ids)} questions without an answer, e.g. {', '.join(ids[:5])}", soft_wrap=True)
    screen.print(f" saved {report.run_path}", soft_wrap=True)
