"""seedbench-r1 judge: verdicts on the reasoning of runs, human labels, agreement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from seedbench_r1.errors import ConfigError, Interrupted, JudgeUnavailable

if TYPE_CHECKING:
    from seedbench_r1.judges.run import Judge
    from seedbench_r1.runs.directory import Run
    from seedbench_r1.types import Verdict


class _RunByDefault(TyperGroup):
    """`judge RUN...` means `judge run RUN...`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["run", *args])


app = typer.Typer(
    help="Does the reasoning support the answer? `judge RUN...` judges runs.", cls=_RunByDefault, no_args_is_help=True
)

MODEL, LIMITS = "Judge", "Limits"
DRAINING = "Stopping: verdicts in flight are finished and saved. Once more stops at once."
Runs = Annotated[list[Path], typer.Argument(help="Run directories.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


@app.command("run")
def judge_command(
    runs: Runs,
    judge: Annotated[
        str, typer.Option("--judge", rich_help_panel=MODEL, help="rules, openai:MODEL, local:PATH, miniature.")
    ] = "rules",
    base_url: Annotated[
        str | None, typer.Option("--judge-base-url", rich_help_panel=MODEL, help="OpenAI-compatible server.")
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option("--prompt-file", rich_help_panel=MODEL, help="Your wording, as plain text.")
    ] = None,
    votes: Annotated[int, typer.Option(rich_help_panel=MODEL, min=1, help="Votes per case; shows the flip rate.")] = 1,
    temperature: Annotated[
        float | None, typer.Option(rich_help_panel=MODEL, min=0, help="Default 0; with several votes 0.7.")
    ] = None,
    batch_size: Annotated[int, typer.Option(rich_help_panel=MODEL, min=1, help="Of a local judge.")] = 8,
    concurrency: Annotated[int, typer.Option(rich_help_panel=LIMITS, min=1, help="Requests at once.")] = 8,
    timeout_s: Annotated[float, typer.Option("--timeout", rich_help_panel=LIMITS, help="Seconds for a reply.")] = 120,
    tries: Annotated[int, typer.Option(rich_help_panel=LIMITS, min=1, help="For one request, with back-off.")] = 6,
    max_cost: Annotated[float | None, typer.Option(rich_help_panel=LIMITS, help="Needs the two prices.")] = None,
    price_in: Annotated[float | None, typer.Option(rich_help_panel=LIMITS, help="Per million prompt tokens.")] = None,
    price_out: Annotated[float | None, typer.Option(rich_help_panel=LIMITS, help="Per million new tokens.")] = None,
    limit: Annotated[int | None, typer.Option(rich_help_panel=LIMITS, min=1, help="New verdicts per run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Judge runs. The same command continues. It never falls back to another judge: exit 6 if there is none."""
    from seedbench_r1.runs.directory import load_run

    loaded = [load_run(path) for path in runs]
    settings = {
        "base_url": base_url,
        "prompt_file": prompt_file,
        "votes": votes,
        "temperature": temperature,
        "batch_size": batch_size,
        "concurrency": concurrency,
        "timeout_s": timeout_s,
        "tries": tries,
        "prices": _prices(max_cost, price_in, price_out),
        "max_cost": max_cost,
    }
    opened = open_judge(judge, settings, loaded, quiet=as_json)
    try:
        for run in loaded:
            _judge_one(run, opened, limit, as_json=as_json)
    finally:
        opened.close()


@app.command("calibrate")
def calibrate_command(
    runs: Runs,
    out: Annotated[Path, typer.Option("--out", "-o", help="The sheet to fill in.")] = Path("labels.csv"),
    n: Annotated[int, typer.Option("--n", min=2, help="Rows.")] = 200,
    strategy: Annotated[str, typer.Option(help="by-verdict (half judged yes, half no) or random.")] = "by-verdict",
    judge_id: Annotated[str | None, typer.Option("--judge-id", help="If several judged.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="Of the choice of rows.")] = 0,
) -> None:
    """Write a blinded sheet for human labels: no run name, no gold answer, no verdict."""
    from seedbench_r1.cli import console
    from seedbench_r1.judges.calibration import calibration_sheet, write_sheet

    if strategy not in ("by-verdict", "random"):
        raise ConfigError(f"No strategy {strategy!r}. There are: by-verdict, random.")
    loaded, verdicts, chosen = _judged(runs, judge_id)
    rows = calibration_sheet(loaded, verdicts, n, by_verdict=strategy == "by-verdict", seed=seed)
    if out.exists():
        raise ConfigError(f"{out} exists and may hold labels. Fix: --out another name.")
    write_sheet(rows, out)
    console.out().print(f"{len(rows)} rows in {out}, judged by {chosen}", soft_wrap=True)
    console.out().print("Write yes or no into supports_answer: does the reasoning lead to the answer given?")


@app.command("agreement")
def agreement_command(
    labels: Annotated[Path, typer.Argument(help="The sheet, filled in.", show_default=False)],
    runs: Runs,
    judge_id: Annotated[str | None, typer.Option("--judge-id", help="If several judged.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Compare a judge with human labels: kappa, sensitivity, specificity, and the rate they imply."""
    from seedbench_r1.cli.judge_agreement import agreement_json, print_agreement
    from seedbench_r1.judges.calibration import agreement, read_labels

    loaded, verdicts, chosen = _judged(runs, judge_id)
    found = agreement(loaded, verdicts, read_labels(labels))
    if not found.n:
        raise ConfigError(f"{labels} holds no labels yet ({found.unlabelled} empty rows).")
    if as_json:
        typer.echo(json.dumps(agreement_json(found, chosen, loaded, verdicts)))
    else:
        print_agreement(found, chosen, loaded, verdicts)


def _judged(paths: list[Path], judge_id: str | None) -> tuple[list[Run], list[dict[str, Verdict]], str]:
    """Runs, one judge's verdicts on each, and which judge. Raises ConfigError unless there is exactly one to take."""
    from seedbench_r1.runs.directory import load_run
    from seedbench_r1.runs.verdicts import load_verdicts

    loaded = [load_run(path) for path in paths]
    by_judge = [load_verdicts(run.path) for run in loaded]
    known = sorted({name for judges in by_judge for name in judges})
    if judge_id is None and len(known) == 1:
        judge_id = known[0]
    if judge_id is None or judge_id not in known:
        listed = ", ".join(known) or "none; run `judge` first"
        raise ConfigError(f"Say which judge with --judge-id. These runs were judged by: {listed}.")
    return loaded, [judges.get(judge_id, {}) for judges in by_judge], judge_id


def open_judge(name: str, settings: dict[str, Any], runs: list[Run], *, quiet: bool = False) -> Judge:
    """The judge of a --judge value. Raises ConfigError for an unknown one, JudgeUnavailable if it cannot be asked."""
    from seedbench_r1.judges.run import RulesJudge

    kind, _, model = name.partition(":")
    if name == "rules":
        return RulesJudge()
    if name == "miniature":
        from seedbench_r1.demo.exact_judge import ExactJudge

        return ExactJudge()
    if kind == "openai" and model:
        return _open_api_judge(model, settings, runs, quiet=quiet)
    if kind == "local" and model:
        return _open_local_judge(model, settings)
    raise ConfigError(f"No judge {name!r}. There are: rules, openai:MODEL, local:PATH, miniature.")


def _open_api_judge(model: str, settings: dict[str, Any], runs: list[Run], *, quiet: bool) -> Judge:
    from seedbench_r1.api.client import ChatClient
    from seedbench_r1.api.cost_limit import Budget
    from seedbench_r1.cli import console
    from seedbench_r1.config import api_key
    from seedbench_r1.judges.models import ApiJudge, JudgeSettings

    try:
        key = api_key(settings["base_url"])
    except ConfigError as error:
        raise JudgeUnavailable(
            f"Judge 'openai:{model}' needs OPENAI_API_KEY (any non-empty value for a local server with "
            f"--judge-base-url). Evaluation is safe; only consistency is pending. No fallback is used. {error}"
        ) from error
    url = settings["base_url"] or "https://api.openai.com/v1"
    chosen = JudgeSettings(
        name=f"openai:{model}",
        prompt=_prompt(settings["prompt_file"]),
        votes=settings["votes"],
        temperature=_temperature(settings),
        server=settings["base_url"],
    )
    if not quiet:
        for line in estimate(runs, chosen, settings["prices"]):
            console.err().print(line, soft_wrap=True)
    budget = Budget(settings["max_cost"], *settings["prices"]) if settings["max_cost"] is not None else None
    client = ChatClient(url, key, timeout_s=settings["timeout_s"], tries=settings["tries"])
    judge = ApiJudge(client, model, chosen, concurrency=settings["concurrency"], budget=budget)
    try:
        judge.probe()
    except JudgeUnavailable:
        judge.close()
        raise
    return judge


def _open_local_judge(model: str, settings: dict[str, Any]) -> Judge:
    from seedbench_r1.backends.text_model import TextModelBackend
    from seedbench_r1.judges.models import JudgeSettings, LocalJudge
    from seedbench_r1.models.checkpoint import model_name

    if settings["votes"] != 1:
        raise ConfigError("--votes is for API judges: a local judge is greedy, so its votes would not differ.")
    chosen = JudgeSettings(name=f"local:{model_name(model)}", prompt=_prompt(settings["prompt_file"]))
    return LocalJudge(TextModelBackend(model, batch_size=settings["batch_size"]), chosen)


def estimate(runs: list[Run], settings: Any, prices: tuple[float, float] | None) -> list[str]:
    """Lines for the user before the first request: how many, how large, how dear. 4 characters count as a token."""
    from seedbench_r1.api.cost_limit import token_cost
    from seedbench_r1.judges.models import build_judge_prompt
    from seedbench_r1.judges.run import judge_case, pending_records
    from seedbench_r1.runs.verdicts import load_verdicts
    from seedbench_r1.scoring import lacks_reasoning

    sizes = []
    for run in runs:
        known = load_verdicts(run.path).get(settings.judge_id, {})
        for record in pending_records(run, known):
            if not lacks_reasoning(record):
                sizes.append(len(build_judge_prompt(judge_case(run, record), settings.prompt)) // 4)
    prompt, new = settings.votes * sum(sizes), settings.votes * len(sizes) * 60  # 60: about one short sentence
    cost = f", about {token_cost(prompt, new, *prices):.2f} at these prices" if prices else ", cost unknown (no prices)"
    return [
        f"judge {settings.judge_id} {len(sizes)} cases, {settings.votes} votes each",
        f"about {prompt:,} prompt tokens and {new:,} new ones{cost}",
    ]


def _judge_one(run: Run, judge: Judge, limit: int | None, *, as_json: bool) -> None:
    from seedbench_r1.cli import console
    from seedbench_r1.cli.judge_results import JudgeProgress, print_consistency, run_json
    from seedbench_r1.cli.signals import draining_signals
    from seedbench_r1.judges.run import judge_run

    with draining_signals(DRAINING) as (stop, received), JudgeProgress(run, judge.judge_id, quiet=as_json) as progress:
        verdicts: dict[str, Verdict] = judge_run(run, judge, limit=limit, stop=stop, observe=progress.observe)
    if as_json:
        typer.echo(json.dumps(run_json(run, judge.judge_id, verdicts)))
    else:
        print_consistency(console.out(), run, judge.judge_id, verdicts)
    if received:
        raise Interrupted("Stopped by a signal. Verdicts so far are saved; run it again to go on.", received[0])


def _prices(max_cost: float | None, price_in: float | None, price_out: float | None) -> tuple[float, float] | None:
    if price_in is not None and price_out is not None:
        return price_in, price_out
    if max_cost is not None:
        raise ConfigError("--max-cost needs --price-in and --price-out (per million tokens).")
    return None


def _prompt(path: Path | None) -> str:
    from seedbench_r1.judges.models import check_prompt, default_prompt

    if path is None:
        return default_prompt()
    try:
        return check_prompt(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The judge's prompt {path} cannot be read: {error}.") from error


def _temperature(settings: dict[str, Any]) -> float:
    given = settings["temperature"]
    return (0.7 if settings["votes"] > 1 else 0.0) if given is None else float(given)
