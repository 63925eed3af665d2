"""Labels well spent and judges compared, as a user types it: sheets filled in by a simulated human, 80 columns."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest

from leaderboards import stats
from seedbench_r1.judges.calibration import judged_counts, read_labels
from seedbench_r1.judges.run import blinded_id
from seedbench_r1.runs.directory import load_run
from seedbench_r1.runs.verdicts import load_verdicts
from tests.command import cli
from tests.synthetic_runs import RULES, RunSpec, make_benchmark, write_runs

NEW, OLD = "openai:gpt-x/v2-12345678", "openai:gpt-x/v1-87654321"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two judged runs of 460 answers each, the second by two judges only, and one without any reasoning."""
    path = tmp_path_factory.mktemp("labels")
    specs = [
        RunSpec("grpo", judges=(RULES, NEW, OLD), consistent=0.8),
        RunSpec("care", seed=1, judges=(RULES, NEW), consistent=0.9),
        RunSpec("bare", seed=2, judges=(RULES, NEW), bare=1.0),
    ]
    write_runs(path, specs, make_benchmark({"L1": 240, "L2": 90, "L3": 130}))
    return path


def human(folder: Path, run: str = "grpo") -> dict[str, bool]:
    """row_id -> what a careful reader would say: yes to 95 % of the judge's yes, to 20 % of its no."""
    words = {}
    for question_id, verdict in load_verdicts(folder / run)[RULES].items():
        row_id = blinded_id(folder / run, question_id)
        words[row_id] = random.Random(row_id).random() < (0.95 if verdict.consistent else 0.2)
    return words


def fill(sheet: Path, words: dict[str, bool]) -> set[str]:
    """Write the labels into a sheet; its row_ids."""
    rows = list(csv.DictReader(sheet.open()))
    with sheet.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(row | {"supports_answer": "yes" if words[row["row_id"]] else "no"} for row in rows)
    return {row["row_id"] for row in rows}


def test_sheet_after_sheet_until_it_is_enough(folder, tmp_path):
    words, seen, sheets = human(folder), set(), []
    command = ["judge", "calibrate", folder / "grpo", "--judge", "rules"]
    first = cli(*command, "--n", 20, "-o", "s0.csv", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    for number in range(1, 12):
        sheet = tmp_path / f"s{number - 1}.csv"
        rows = fill(sheet, words)
        assert not rows & seen, "a case was handed out twice"
        seen |= rows
        sheets += ["--allocate", sheet.name]
        done = cli(*command, *sheets, "--half-width", 5, "-o", f"s{number}.csv", cwd=tmp_path, COLUMNS="80")
        assert done.returncode == 0, done.stderr
        assert max(map(len, done.stdout.splitlines())) <= 80
        if "enough" in done.stdout:
            break
        assert "more labels to 5 points, by the shares so far" in done.stdout
        text = (tmp_path / f"s{number}.csv").read_text()
        assert "grpo" not in text
        assert "gold" not in text
    assert "enough: the half-width is at most 5 points; no sheet was written" in done.stdout
    assert not (tmp_path / f"s{number}.csv").exists()
    assert 60 < len(seen) < 250
    files = [name for name in sheets if name != "--allocate"]
    found = json.loads(
        cli(
            "judge", "agreement", *files, folder / "grpo", folder / "care", "--judge", RULES, "--json", cwd=tmp_path
        ).stdout
    )
    own = found["runs"]["grpo"]["by_predictive_values"]
    assert own["hi"] - own["lo"] <= 0.1
    # The truth: what the human would say of every case, and no to those without reasoning.
    reasoned = everything(folder)
    assert own["lo"] <= sum(words[r] for r in words if r in reasoned) / 460 <= own["hi"]
    # More of the side whose labels say more; the table's own sensitivity is that of the sheet.
    table = found["table"]
    yes = table["yy"] + table["yn"]
    assert yes > 1.3 * (found["n"] - yes)
    counts = judged_counts(load_run(folder / "grpo"), load_verdicts(folder / "grpo")[RULES])
    assert counts.by_definition == 460 - counts.asked > 0
    expected = stats.weighted_accuracy(counts, tuple(table[cell] for cell in ("yy", "yn", "ny", "nn")))
    assert (found["sensitivity"], found["specificity"]) == pytest.approx(expected)
    assert found["sensitivity"] != pytest.approx(table["yy"] / (table["yy"] + table["ny"]), abs=0.01)
    # The other run holds no labels: its rate is carried over.
    assert found["runs"]["care"]["by_predictive_values"] == {"value": None, "lo": None, "hi": None}
    assert found["runs"]["care"]["by_sensitivity"]["value"] > own["value"]
    shown = cli(
        "judge", "agreement", *files, folder / "grpo", folder / "care", "--judge", RULES, cwd=tmp_path, COLUMNS="80"
    )
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert "corrected by its own labels" in shown.stdout
    assert "corrected by sensitivity and specificity elsewhere" in shown.stdout


def everything(folder: Path) -> set[str]:
    """row_ids of the answers that hold reasoning."""
    run = load_run(folder / "grpo")
    return {blinded_id(run.path, q) for q, record in run.records.items() if record.parsed and record.parsed.reasoning}


def test_the_first_labels_may_be_none(folder, tmp_path):
    (tmp_path / "none.csv").touch()
    command = ("judge", "calibrate", folder / "grpo", "--judge", "rules", "--n", 30, "-o", "next.csv")
    done = cli(*command, "--allocate", "none.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "corrected: not yet" in done.stdout
    assert len(read_labels(tmp_path / "next.csv")) == 30
    # Rows that nobody labelled may come again.
    again = cli(*command[:-1], "third.csv", "--allocate", "next.csv", cwd=tmp_path)
    assert set(read_labels(tmp_path / "third.csv")) == set(read_labels(tmp_path / "next.csv")), again.stderr


def test_several_runs_share_labels_by_sensitivity_and_specificity(folder, tmp_path):
    runs = (folder / "grpo", folder / "care")
    words = human(folder) | human(folder, "care")
    assert cli("judge", "calibrate", *runs, "--judge", "rules", "--n", 40, "-o", "a.csv", cwd=tmp_path).returncode == 0
    fill(tmp_path / "a.csv", words)
    command = ("judge", "calibrate", "--judge", "rules", "--allocate", "a.csv", "-o", "b.csv")
    refused = cli(*command, *runs, cwd=tmp_path)
    assert refused.returncode == 3
    assert "Predictive values belong to one run, and these are 2" in refused.stderr
    done = cli(*command, *runs, "--estimator", "rogan-gladen", "--half-width", 4, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("rogan-gladen") == 2
    # Labels of one of two runs are no sample of both.
    (tmp_path / "b.csv").unlink()
    assert (
        cli("judge", "calibrate", runs[0], "--judge", "rules", "--n", 20, "-o", "c.csv", cwd=tmp_path).returncode == 0
    )
    fill(tmp_path / "c.csv", words)
    alone = cli(
        *(word if word != "a.csv" else "c.csv" for word in command), *runs, "--estimator", "rogan-gladen", cwd=tmp_path
    )
    assert alone.returncode == 3
    assert "The labels hold none of" in alone.stderr


def test_what_cannot_be_reached_is_said(folder, tmp_path):
    assert cli("judge", "calibrate", folder / "grpo", "--judge", "rules", "--n", 60, cwd=tmp_path).returncode == 0
    fill(tmp_path / "labels.csv", human(folder))
    done = cli(
        *("judge", "calibrate", folder / "grpo", "--judge", "rules", "--allocate", "labels.csv"),
        *("--half-width", 1, "-o", "next.csv"),
        cwd=tmp_path,
    )
    assert "1 points cannot be reached: with every case labelled about" in done.stdout


def test_a_run_without_reasoning_has_nothing_to_label(folder, tmp_path):
    (tmp_path / "none.csv").touch()
    for options in ((), ("--allocate", "none.csv")):
        done = cli("judge", "calibrate", folder / "bare", "--judge", "rules", *options, "-o", "n.csv", cwd=tmp_path)
        assert done.returncode == 3
        assert "There is nothing to label" in done.stderr


def test_a_run_that_was_not_judged_has_no_rate(folder, tmp_path):
    (fresh,) = write_runs(tmp_path, [RunSpec("fresh", seed=3, judges=())], make_benchmark())
    reasoned = everything(folder)
    row = next(r for r in human(folder) if r in reasoned)
    (tmp_path / "l.csv").write_text(f"row_id,supports_answer\n{row},yes\n")
    done = cli("judge", "agreement", "l.csv", folder / "grpo", fresh, "--judge", RULES, "--json", cwd=tmp_path)
    rate = json.loads(done.stdout)["runs"]["fresh"]
    assert (rate["judged"], rate["raw"], rate["by_sensitivity"]["value"]) == (0, None, None)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--allocate", "odd.csv", "-o", "n.csv"), 4, "odd.csv:3: supports_answer is 'maybe', expected yes or no"),
        (("--allocate", "good.csv", "--allocate", "turned.csv", "-o", "n.csv"), 4, "turned.csv:2: row"),
        (("--allocate", "nameless.csv", "-o", "n.csv"), 4, "nameless.csv:2 has no row_id"),
        (("--allocate", "absent.csv", "-o", "n.csv"), 4, "absent.csv cannot be read"),
        (("--allocate", "other.csv", "-o", "n.csv"), 4, "are of none of these runs"),
        (("--allocate", "good.csv", "-o", "good.csv"), 3, "good.csv exists and may hold labels"),
        (("--allocate", "good.csv", "--strategy", "random", "-o", "n.csv"), 3, "--allocate draws by verdict"),
        (("--half-width", 3, "-o", "n.csv"), 3, "--half-width does nothing without --allocate"),
        (("--estimator", "rogan-gladen", "-o", "n.csv"), 3, "--estimator does nothing without --allocate"),
        (("--allocate", "good.csv", "--half-width", 50, "-o", "n.csv"), 3, "--half-width is 50"),
        (("--allocate", "good.csv", "--estimator", "ppi", "-o", "n.csv"), 3, "one of predictive-values, rogan-gladen"),
        (("--strategy", "clever", "-o", "n.csv"), 3, "one of by-verdict, random"),
        (("--judge", "nobody", "-o", "n.csv"), 3, "No verdicts of 'nobody'"),
        (("--judge", "openai", "-o", "n.csv"), 3, f"could be {OLD} or {NEW}"),
    ],
)
def test_bad_sheets_and_options(folder, tmp_path, options, code, said):
    rows = list(human(folder))[:3]
    for name, lines in {
        "good.csv": [f"{rows[0]},yes", f"{rows[1]},no"],
        "odd.csv": [f"{rows[0]},yes", f"{rows[1]},maybe"],
        "turned.csv": [f"{rows[0]},no"],
        "nameless.csv": [",yes"],
        "other.csv": ["0123456789ab,yes"],
    }.items():
        (tmp_path / name).write_text("\n".join(["row_id,supports_answer", *lines, ""]))
    judge = () if "--judge" in options else ("--judge", "rules")
    done = cli("judge", "calibrate", folder / "grpo", *judge, *options, cwd=tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stderr
    assert not (tmp_path / "n.csv").exists()


def test_judges_are_compared_with_one_another(folder, tmp_path):
    runs = (folder / "grpo", folder / "care")
    command = ("judge", "agreement", *runs, "--judges", f"rules, {NEW},openai:gpt-x/v1")
    found = json.loads(cli(*command, "--json", cwd=tmp_path).stdout)
    assert [judge["judge_id"] for judge in found["judges"]] == [RULES, NEW, OLD]
    # By hand: the answers with reasoning, clustered by video.
    loaded, verdicts = [load_run(run) for run in runs], [load_verdicts(run) for run in runs]
    rows, videos = [[], [], []], []
    for run, known in zip(loaded, verdicts, strict=True):
        for question_id, record in run.records.items():
            if record.answered and record.parsed.reasoning and record.parsed.answer:
                videos.append(record.cluster)
                for row, judge in zip(rows, (RULES, NEW, OLD), strict=True):
                    verdict = known.get(judge, {}).get(question_id)
                    row.append(
                        float("nan") if verdict is None or verdict.consistent is None else float(verdict.consistent)
                    )
    alpha = stats.krippendorff_alpha(rows, videos)
    assert found["krippendorff_alpha"] == {"value": alpha.value, "lo": alpha.lo, "hi": alpha.hi}
    assert (found["n"], found["n_videos"]) == (len(videos), len(set(videos)))
    pair = found["pairs"][1]
    assert (pair["first"], pair["second"]) == (RULES, OLD)
    assert pair["n"] == sum(word == word for word in rows[2]) < found["n"]
    assert pair["kappa"]["value"] == stats.clustered_kappa(rows[0], rows[2], videos).value
    shown = cli(*command, cwd=tmp_path, COLUMNS="80")
    assert shown.returncode == 0, shown.stderr
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert "Krippendorff's alpha (nominal)" in shown.stdout
    assert "Prompt versions of one model are different judges" in shown.stdout
    two = cli("judge", "agreement", *runs, "--judges", f"rules,{NEW}", cwd=tmp_path)
    assert "Prompt versions" not in two.stdout
    # Once more through another path is the same run.
    twice = cli(*command, folder / "care" / ".." / "grpo", "--json", cwd=tmp_path)
    assert json.loads(twice.stdout)["n"] == found["n"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("grpo", "--judges", "rules"), 3, "--judges rules names fewer than two judges"),
        (("grpo", "--judges", ""), 3, "names fewer than two judges"),
        (("grpo", "--judges", "rules,rules/v1"), 3, "names one of them twice"),
        (
            ("grpo", "--judges", "rules,nobody"),
            3,
            "Judge 'nobody' judged none of the runs. Fix: one of openai:gpt-x/v1",
        ),
        (("grpo", "--judges", "rules,openai:gpt-x"), 3, f"could be {OLD} or {NEW}"),
        (("bare", "--judges", f"rules,{NEW}"), 3, "No answer of these runs holds reasoning"),
        (("l.csv", "grpo", "--judges", f"rules,{NEW}"), 3, "l.csv holds labels"),
        (("grpo", "--judges", f"rules,{NEW}", "--judge", "rules"), 3, "name judges twice"),
        (("grpo",), 3, "No sheet of labels was given"),
        (("l.csv",), 3, "No run was given"),
        (("l.csv", "grpo", "--judge", "rules"), 3, "holds no labels yet (1 empty rows)"),
    ],
)
def test_bad_comparisons(folder, tmp_path, words, code, said):
    row = next(iter(human(folder)))
    (tmp_path / "l.csv").write_text(f"row_id,supports_answer\n{row},\n")
    paths = [folder / word if word in ("grpo", "bare") else word for word in words]
    done = cli("judge", "agreement", *paths, cwd=tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stderr
