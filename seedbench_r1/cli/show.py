"""seedbench-r1 show: the result of a run, one question with its answer and verdicts, or what failed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from seedbench_r1.cli import console
from seedbench_r1.cli.given_paths import refuse_folders_of_runs
from seedbench_r1.errors import ConfigError
from seedbench_r1.runs.directory import Run, load_run
from seedbench_r1.runs.records import run_identity
from seedbench_r1.runs.samples import sample_runs
from seedbench_r1.runs.verdicts import load_verdicts
from seedbench_r1.types import Question, RunRecord, Score, Verdict, to_json


def show_command(
    run: Annotated[Path, typer.Argument(help="Run directory.", show_default=False)],
    *,
    question: Annotated[str | None, typer.Option(help="Question id, e.g. L1/115.", show_default=False)] = None,
    failed: Annotated[bool, typer.Option("--failed", help="List the questions whose last attempt failed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Print a run's result; one question with options, reasoning, answer, score and verdicts; or list what failed."""
    # The run directory alone: no annotations, no checkpoint, no media are needed.
    if samples := sample_runs(run):
        _show_samples(run, samples, question, failed=failed, as_json=as_json)
        return
    refuse_folders_of_runs([run], several=False)
    _show(run, question, failed=failed, as_json=as_json)


def _show_samples(folder: Path, samples: list[Path], question: str | None, *, failed: bool, as_json: bool) -> None:
    """A folder of several samples: their table, or of each one what was asked for."""
    from seedbench_r1.cli.samples_results import print_samples, samples_values
    from seedbench_r1.runs.samples import load_samples

    if question is None and not failed:
        runs = load_samples(folder)
        if as_json:
            console.print_json(samples_values(folder, runs))
        else:
            print_samples(folder, runs)
        return
    if as_json:
        loaded = [load_run(sample) for sample in samples]
        found = [
            {"seed": run.manifest.seed, "run_dir": str(run.path)}
            | ({"failed": _failures(run)} if question is None else to_json(_asked(run, question)))
            for run in loaded
        ]
        console.print_json({"schema": "sbr1.samples-show/1", "samples": found})
        return
    for sample in samples:
        console.out().print(f"{sample}\n", soft_wrap=True)
        _show(sample, question, failed=failed, as_json=False)


def _show(run: Path, question: str | None, *, failed: bool, as_json: bool) -> None:
    loaded = load_run(run)
    if failed:
        _list_failures(loaded, as_json=as_json)
        return
    if question is None:
        _print_run(loaded, as_json=as_json)
        return
    value = _asked(loaded, question)
    if as_json:
        console.print_json(to_json(value))
        return
    record, verdicts = loaded.records.get(question), value["verdicts"]
    for line in [*describe(loaded.questions[question], record), *map(_verdict_line, verdicts)]:
        console.out().print(line, soft_wrap=True)


def _asked(loaded: Run, question: str) -> dict[str, Any]:
    """A question with its record and verdicts. Raises ConfigError for one of another run."""
    if question not in loaded.questions:
        # The first of each level shows how ids are written.
        firsts = {q.split: question_id for question_id, q in reversed([*loaded.questions.items()])}
        some = ", ".join(reversed(firsts.values()))
        raise ConfigError(f"No question {question!r} in {loaded.path}. It holds {len(loaded.questions)}, e.g. {some}.")
    judges = load_verdicts(loaded.path, run_identity(loaded.manifest))
    verdicts = [judges[judge_id][question] for judge_id in sorted(judges) if question in judges[judge_id]]
    return {"question": loaded.questions[question], "record": loaded.records.get(question), "verdicts": verdicts}


def _print_run(run: Run, *, as_json: bool) -> None:
    """What `eval` printed at its end, and what each judge's `judge` did."""
    from seedbench_r1.cli.judge_results import print_consistency, run_json
    from seedbench_r1.cli.results import print_summary, summary_values

    manifest, summary = run.manifest, run.summary()
    judges = load_verdicts(run.path, run_identity(manifest))
    judged = {name: judges[name] for name in sorted(judges)}
    if as_json:
        value = {
            "schema": "sbr1.show/1",
            "run_dir": str(run.path),
            "model": manifest.model.name,
            "protocol_id": manifest.protocol_id,
            **summary_values(run, summary),
            "judges": [run_json(run, name, verdicts) for name, verdicts in judged.items()],
        }
        console.print_json(value)
        return
    screen = console.out()
    protocol = f"protocol {manifest.protocol_id} ({manifest.protocol})"
    screen.print(f"{run.path} {console.dot()} {manifest.model.name} {console.dot()} {protocol}", soft_wrap=True)
    print_summary(run, summary)
    for name, verdicts in judged.items():
        screen.print("")
        print_consistency(screen, run, name, verdicts)
    n_failed = sum(split.failed for split in summary.splits.values())
    failed = f" {console.dot()} the {n_failed} that failed: --failed" if n_failed else ""
    example = next(iter(run.records), "ID")
    screen.print(f" next: seedbench-r1 show {run.path} --question {example}{failed}", soft_wrap=True)


def _verdict_line(verdict: Verdict) -> str:
    """ "verdict   not consistent, by rules/v1: the reasoning concludes B"."""
    said = {True: "consistent", False: "not consistent", None: "no verdict"}[verdict.consistent]
    votes = f", votes {sum(verdict.votes)} of {len(verdict.votes)} yes" if verdict.votes else ""
    return f"verdict   {said}{votes}, by {verdict.judge_id}: {verdict.reason}"


def _failures(run: Run) -> list[Any]:
    """The records of what failed, for --json."""
    return [to_json(record) for record in run.records.values() if record.failure is not None]


def _list_failures(run: Run, *, as_json: bool) -> None:
    failures = [(record, record.failure) for record in run.records.values() if record.failure is not None]
    if as_json:
        console.print_json(_failures(run))
        return
    for record, failure in failures:
        line = f"{record.question_id}  {failure.kind}  {failure.message}"
        console.out().print(line, soft_wrap=True)
    # Counts go to standard error, so that the list alone can be piped.
    console.err().print(f"{len(failures)} failed, {len(run.questions) - len(run.records)} not asked yet")


def describe(question: Question, record: RunRecord | None) -> list[str]:
    """Lines of text: the question, its options with gold and answer marked, then what the model said."""
    answer = record.parsed.answer if record and record.parsed else None
    # Choices are the usual case and go without saying.
    kind = "" if question.kind == "choice" else f"  {question.kind}"
    lines = [
        f"{question.question_id}  {question.domain or question.split}{kind}  video {question.cluster}",
        *([f"goal      {question.task_goal}"] if question.task_goal else []),
        *(f"done      {step.narration}" for step in question.progress),
        f"clip      {question.video or 'none'}",
        f"image     {question.image or 'none'}",
        "",
        question.text,
    ]
    for letter, option in zip(question.letters, question.options, strict=True):
        # Both marks on one option: a right answer.
        marks = " ".join(["gold"] * (letter == question.gold) + ["answered"] * (letter == answer))
        lines.append(f"  {letter}. {option}{'   <- ' + marks if marks else ''}")
    lines += [f"gold      {question.gold}"] if not question.options else []
    lines.append("")
    if record is None:
        return [*lines, "not asked yet"]
    if record.failure is not None:
        return [*lines, f"failed ({record.failure.kind}): {record.failure.message}"]
    if record.generation is None or record.parsed is None or record.score is None:
        return lines
    generation, score = record.generation, record.score
    lines += [
        f"reasoning {record.parsed.reasoning if record.parsed.reasoning is not None else '(none)'}",
        f"answer    {answer if answer is not None else '(not read)'}   from {record.parsed.answer_text!r}",
        f"score     {score.outcome}, {_credit(score)}{'' if record.parsed.format_ok else ', format not kept'}",
    ]
    # Imported answers say nothing of tokens and time.
    if generation.latency_s is not None:
        read, written = ("?" if n is None else n for n in (generation.n_prompt_tokens, generation.n_tokens))
        sizes = f"{read} prompt, {written} new"
        lines.append(f"tokens    {sizes}, {generation.finish_reason}, {generation.latency_s:.2f} s")
    # Only when the clip was not decoded by the reader asked for.
    if record.reader_note:
        lines.append(f"reader    {record.reader}: {record.reader_note}")
    return lines


def _credit(score: Score) -> str:
    """ "correct", "wrong", or the share of the credit; then what the strict rule says, if it differs."""
    said = {1.0: "correct", 0.0: "wrong"}.get(score.credit, f"credit {score.credit:g}")
    # The usual case: nothing to explain.
    if score.credit == score.strict_credit:
        return said
    strict = {1.0: "correct", 0.0: "wrong"}.get(score.strict_credit, f"{score.strict_credit:g}")
    return f"{said} (strict rule: {strict})"
