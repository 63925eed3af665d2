"""seedbench-r1 doctor: is this machine ready?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seedbench_r1.cli import console
from seedbench_r1.cli.options import plain_option
from seedbench_r1.errors import ConfigError
from seedbench_r1.types import to_json

if TYPE_CHECKING:
    from seedbench_r1.cli.model_report import ModelReport


def doctor_command(
    *,
    data_root: Annotated[Path | None, plain_option("--data-root", help="Data set to look at.")] = None,
    runs_dir: Annotated[Path, typer.Option("--runs-dir", help="Where runs will be written.")] = Path("runs"),
    model: Annotated[str | None, typer.Option("--model", help="Checkpoint to look at: family, prompt, costs.")] = None,
    base_model: Annotated[str | None, typer.Option("--base-model", help="Of an adapter that does not name it.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run programs that come with the checkpoint.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Check packages, GPUs, data and disk; each failing line says what to type. Exit 3 if one fails.

    With --model, say what is done for that checkpoint instead.
    """
    if model is not None:
        from seedbench_r1.cli.model_report import report_model

        _print_model(report_model(model, base_model=base_model, trust_remote_code=trust_remote_code), as_json=as_json)
        return
    from seedbench_r1.cli.checks import examine

    marks = {"pass": console.glyph("✓", "ok"), "warn": "!", "fail": console.glyph("✗", "x")}
    findings = []
    for finding in examine(data_root, runs_dir, os.environ):
        findings.append(finding)
        if not as_json:
            fix = f"   fix: {finding.fix}" if finding.fix and finding.status != "pass" else ""
            console.out().print(f" {marks[finding.status]} {finding.text}{fix}", soft_wrap=True)
    if as_json:
        console.print_json({"schema": "sbr1.doctor/1", "findings": to_json(findings)})
    bad = [finding for finding in findings if finding.status == "fail" or (strict and finding.status == "warn")]
    if bad:
        raise ConfigError(f"{len(bad)} checks failed.")


def _print_model(report: ModelReport, *, as_json: bool) -> None:
    from seedbench_r1.cli.model_report import lines

    if as_json:
        console.print_json({"schema": "sbr1.doctor-model/1", **to_json(report)})
        return
    for line in lines(report):
        console.out().print(line, soft_wrap=True, markup=False, highlight=False)
