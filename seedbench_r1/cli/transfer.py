"""eval --suite transfer: the general video benchmarks of GRPO-CARE's Table 4, and how their results are shown."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from seedbench_r1.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from seedbench_r1.engines.local import EvalResult, Plan
    from seedbench_r1.runs.directory import Run
    from seedbench_r1.suites.transfer_questions import TransferQuestion
    from seedbench_r1.suites.transfer_records import TransferGroup, TransferRecord, TransferSummary


def run_transfer(
    options: dict[str, Any],
    config_file: Path | None,
    mode: dict[str, bool],
    transfer: dict[str, Any],
    engines: dict[str, Any],
) -> None:
    """The part of `eval` for --suite transfer. `transfer` holds transfer_files and benchmarks; `engines` the rest."""
    from seedbench_r1.cli.eval import exit_code, parse_options, raise_unless_done, run_planned
    from seedbench_r1.cli.results import print_config
    from seedbench_r1.suites.transfer import plan_transfer, resolve_transfer_config
    from seedbench_r1.suites.transfer_questions import BENCHMARKS, parse_benchmarks

    _refuse_strangers(options, engines)
    config = resolve_transfer_config(parse_options(options), config_file=config_file)
    names = tuple(BENCHMARKS) if transfer["benchmarks"] is None else parse_benchmarks(transfer["benchmarks"])
    if mode["print_config"]:
        print_config(config)
        return
    command = shlex.join(["seedbench-r1", *sys.argv[1:]])
    planned = plan_transfer(config, files=transfer["transfer_files"], benchmarks=names, command=command)
    if mode["dry_run"]:
        _print_dry_run(planned, as_json=mode["json"])
        return
    result, signal_number = run_planned(planned, quiet=mode["quiet"] or mode["json"])
    code = exit_code(planned, result, signal_number)
    if mode["json"]:
        typer.echo(transfer_json(planned, result, code))
    else:
        print_transfer(planned, result)
    raise_unless_done(planned, result, signal_number, code)


def _refuse_strangers(options: dict[str, Any], engines: dict[str, Any]) -> None:
    """Options that would be ignored are refused."""
    if engines.pop("suite") != "transfer":
        raise ConfigError("--transfer-files and --benchmarks belong to --suite transfer.")
    given = [name for name in ("levels", "annotations") if options[name] is not None]
    given += [name for name, value in engines.items() if value is not None]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"--suite transfer does not take {flags}.")


def print_transfer(planned: Plan, result: EvalResult) -> None:
    """The closing block: one column for each benchmark of Table 4, then scores by problem type."""
    from seedbench_r1.cli import console

    summary: Any = result.summary
    screen = console.out()
    table = transfer_table(summary)
    whole = screen.measure(table, options=screen.options.update(width=400)).maximum
    screen.width = max(whole, screen.width)  # a line that the terminal wraps is better than numbers cut off
    screen.print(table)
    for line in type_lines(summary):
        screen.print(line, soft_wrap=True)
    video = planned.config.video
    screen.print(
        f" transfer: own prompt, {video.max_frames} frames of at most {video.max_pixels:,} pixels; "
        f"not to be mixed with SEED-Bench-R1 results",
        soft_wrap=True,
    )
    if summary.status == "incomplete":
        screen.print(f" INCOMPLETE: {summary.pending} questions have no answer; not to be ranked", soft_wrap=True)
    if summary.status == "subset":
        screen.print(" SUBSET: --limit was given; not to be ranked")
    screen.print(f" saved {planned.path / 'summary.json'}", soft_wrap=True)
    if planned.questions:
        example = planned.questions[0].question_id
        screen.print(f" next: seedbench-r1 show {planned.path} --question {example}", soft_wrap=True)


def transfer_table(summary: TransferSummary) -> Table:
    """Rows: our score, the reference's rule, and counts. Columns: the benchmarks, in the order of Table 4."""
    from rich.table import Table

    from seedbench_r1.suites.transfer_questions import BENCHMARKS

    table = Table(box=None, pad_edge=True, header_style="bold")
    table.add_column("", no_wrap=True)
    for name in BENCHMARKS.values():
        table.add_column(name, justify="right", no_wrap=True)
    rows: dict[str, Callable[[TransferGroup], str]] = {
        "score %": _score_cell,
        "reference rule %": lambda group: _percent(group.strict_mean),
        "questions": lambda group: f"{group.n}" if group.selected == group.n else f"{group.selected} of {group.n}",
        "unparsed": lambda group: str(group.unparsed),
        "truncated": lambda group: str(group.truncated),
        "failed": lambda group: str(group.failed),
    }
    for name, cell in rows.items():
        groups = [summary.benchmarks.get(key) for key in BENCHMARKS]
        table.add_row(name, *("-" if group is None else cell(group) for group in groups))
    return table


def type_lines(summary: TransferSummary) -> list[str]:
    """For benchmarks of several problem types: each type's score, all questions together, and the mean of the types."""
    from seedbench_r1.suites.transfer_questions import BENCHMARKS

    lines = []
    for key, kinds in summary.problem_types.items():
        if len(kinds) < 2:
            continue
        parts = [f"{_metric(kind)} {_percent(group.mean)} (n {group.selected})" for kind, group in kinds.items()]
        parts.append(f"all questions {_percent(summary.benchmarks[key].mean)}")
        parts.append(f"mean of types {_percent(summary.mean_of_types[key])}")
        lines.append(f" {BENCHMARKS[key]}: {', '.join(parts)}")
    return lines


def _metric(kind: str) -> str:
    return "regression (MRA)" if kind == "regression" else kind


def _score_cell(group: TransferGroup) -> str:
    """The mean; for an incomplete group the bounds with the missing answers all wrong and all right."""
    if group.mean is not None:
        return _percent(group.mean)
    missing = group.selected - group.answered
    return f"{100 * group.correct / group.selected:.1f}-{100 * (group.correct + missing) / group.selected:.1f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def transfer_json(planned: Plan, result: EvalResult, code: int) -> str:
    """The one JSON object of --json. Fractions, not percentages; null where there is no number."""
    from seedbench_r1.runs.directory import load_run
    from seedbench_r1.types import to_json

    run = load_run(planned.path, planned.suite.lines)
    failures = [record for record in run.records.values() if record.failure is not None]
    value = {
        "schema": "sbr1.transfer-eval/1",
        "run_dir": str(planned.path),
        "protocol_id": planned.manifest.protocol_id,
        **to_json(result.summary),
        "errors": [{"question_id": r.question_id, **to_json(r.failure)} for r in failures],
        "exit_code": code,
    }
    return json.dumps(value, ensure_ascii=False)


def _print_dry_run(planned: Plan, *, as_json: bool) -> None:
    """What would be run, and the prompt of one question of each problem type. No model is loaded."""
    from seedbench_r1.cli import console
    from seedbench_r1.suites.transfer_prompts import build_prompt

    questions: list[Any] = list(planned.questions)
    template: Any = planned.config.template
    first = {question.problem_type: question for question in reversed(questions)}
    value = {
        "run_dir": str(planned.path),
        "protocol_id": planned.manifest.protocol_id,
        "questions": planned.manifest.n_total,
        "asked": len(questions),
        "missing_files": len(planned.missing),
    }
    if as_json:
        typer.echo(json.dumps({"schema": "sbr1.dry-run/1", **value}, ensure_ascii=False))
        return
    screen = console.out()
    for kind, question in first.items():
        screen.print(f"prompt of {question.question_id} ({kind}):\n")
        screen.print(console.printable(build_prompt(question, template)) + "\n", soft_wrap=True)
    for name, item in value.items():
        screen.print(f" {name.replace('_', ' '):<16} {item}", soft_wrap=True)


def describe_transfer(run: Run, question_id: str) -> list[str]:
    """Lines of text for `show`: the question with gold and answer, then what the model said."""
    question: TransferQuestion = run.questions[question_id]  # type: ignore[assignment]
    record: TransferRecord | None = run.records.get(question_id)  # type: ignore[assignment]
    answer = record.parsed.answer if record and record.parsed else None
    lines = [
        f"{question.question_id}  {question.problem_type}  {question.data_source or ''}".rstrip(),
        f"{'clip' if question.video else 'image':<9} {question.video or question.image}",
        "",
        question.text,
    ]
    for letter, option in zip(question.letters, question.options, strict=True):
        marks = " ".join(["gold"] * (letter == question.gold) + ["answered"] * (letter == answer))
        lines.append(f"  {letter}. {option}{'   <- ' + marks if marks else ''}")
    lines += ["", f"gold      {question.gold}"]
    if record is None:
        return [*lines, "not asked yet"]
    if record.failure is not None:
        return [*lines, f"failed ({record.failure.kind}): {record.failure.message}"]
    if record.parsed is None or record.score is None:
        return lines
    reasoning = record.parsed.reasoning
    return [
        *lines,
        f"reasoning {reasoning if reasoning is not None else '(none)'}",
        f"answer    {answer if answer is not None else '(not read)'}   from {record.parsed.answer_text!r}",
        f"score     {record.score.outcome}, credit {record.score.correct:g}, by the reference's rule "
        f"{record.score.strict_correct:g}{'' if record.parsed.format_ok else ', format not kept'}",
    ]
