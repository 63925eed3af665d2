"""The table as Markdown and LaTeX: complete, escaped, and fair to ties."""

import json
import re
import shutil
import subprocess

import pytest

from leaderboards.board import build_board
from leaderboards.draw.latex import escape_latex, flag_letters, latex, narrow_latex
from leaderboards.draw.markdown import markdown
from tests.synthetic_runs import RunSpec, make_benchmark, write_run

HOSTILE = r"a|b_c & 50% $x$ {y} \input{z} <b>^~# `q` *e*"


def table_of(text):
    """Cells of each row of a Markdown table; escaped bars belong to their cell."""
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]


def latex_rows(text):
    body = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0]
    return [line for line in body.splitlines() if line.endswith(r"\\")]


def hostile_board(tmp_path):
    path = write_run(tmp_path, RunSpec("x"), make_benchmark())
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["model"]["name"] = HOSTILE + "\nsecond line"
    (path / "manifest.json").write_text(json.dumps(manifest))
    return build_board([path])


def test_markdown_has_every_row_with_as_many_cells_as_the_header(on_disk):
    rows = table_of(markdown(on_disk.board))
    assert {len(row) for row in rows} == {15}
    assert [row[2].strip() for row in rows[2:]] == [
        f"{r.model} (step {r.step})" if r.step is not None and r.model != r.run_id else r.model
        for r in on_disk.board.rows
    ]
    reported = table_of(markdown(on_disk.board, include_reported=True))
    assert len(reported) == len(rows) + len(on_disk.board.published)
    assert {len(row) for row in reported} == {15}
    assert any("†" in row[2] and "53.4" in row[9] for row in reported)


def test_all_members_of_tier_a_are_bold_and_nothing_else(on_disk):
    tier_a = [row.run_id for row in on_disk.board.rows if row.tier == "A"]
    assert len(tier_a) > 1
    bold = [row[2].strip() for row in table_of(markdown(on_disk.board)) if "**" in row[9]]
    assert bold == tier_a
    rows = latex_rows(latex(on_disk.board))
    assert [line.split(" & ")[0].partition("\\")[0] for line in rows if r"\textbf" in line] == tier_a
    assert all(line.split(" & ")[8].startswith(r"\textbf") for line in rows if r"\textbf" in line)


def test_a_cell_is_the_share_and_half_its_interval(on_disk):
    cell = on_disk.board.row("base").accuracy["L2"]
    shown = f"{100 * cell.value:.1f} ±{50 * (cell.hi - cell.lo):.1f}"
    (row,) = [row for row in table_of(markdown(on_disk.board)) if row[2].strip() == "base"]
    assert row[4].strip() == shown
    assert row[11].strip() == "baseline"


def test_incomplete_runs_show_bounds_and_foreign_judges_nothing(on_disk):
    rows = {row[2].strip(): row for row in table_of(markdown(on_disk.board))}
    bounds = on_disk.board.row("stopped").bounds["L3"]
    assert rows["stopped"][9].strip() == f"{100 * bounds.lo:.1f} to {100 * bounds.hi:.1f}"
    assert rows["stopped"][0].strip() == "–"
    assert rows["other-judge"][10].strip() == rows["not-judged"][10].strip() == "–"
    assert rows["base"][10].strip() != "–"


def test_the_strip_above_and_the_methods_below(on_disk):
    text = markdown(on_disk.board)
    head, _, foot = text.partition("| Rank |")
    assert "Mixed protocols" in head
    assert "Wilson" in foot


def test_latex_is_balanced_and_every_row_has_all_columns(on_disk):
    for text in (latex(on_disk.board), latex(on_disk.board, include_reported=True)):
        without_escapes = re.sub(r"\\[\\{}]", "", text)
        assert without_escapes.count("{") == without_escapes.count("}")
        assert text.count(r"\begin{") == text.count(r"\end{") == 2
        columns = re.search(r"\\begin\{tabular\}\{(l+c+)\}", text)[1]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in latex_rows(text)} == {len(columns) - 1}
        assert r"\toprule" in text
        assert text.isascii()


def test_flags_are_letters_that_the_caption_explains(on_disk):
    board = on_disk.board
    text, letters = latex(board), flag_letters(board)
    caption = text.partition(r"\caption{")[2].partition("\n")[0]
    rows = dict(zip((row.run_id for row in board.rows), latex_rows(text), strict=True))
    for row in board.rows:
        marks = ",".join(letters[flag] for flag in row.flags)
        name = rows[row.run_id].split(" & ")[0]
        assert name.endswith(rf"\textsuperscript{{{marks}}}") if marks else r"\textsuperscript" not in name
        assert all(f"({letters[flag]}) {escape_latex(flag)}" in caption for flag in row.flags)
    assert len(set(letters.values())) == len(letters) > 3


def test_a_table_for_one_column_of_two_has_the_same_numbers(on_disk):
    board = on_disk.board
    text = narrow_latex(board)
    assert "resizebox" not in text
    rows = [line.removesuffix(r" \\").split(" & ") for line in latex_rows(text)]
    assert {len(row) for row in rows} == {6}
    for row, cells in zip(board.rows, rows, strict=True):
        for name, cell in zip(("L1", "L2", "L3"), cells[1:4], strict=True):
            expected = f"{100 * row.accuracy[name].value:.1f}" if name in row.accuracy else "--"
            assert cell.replace(r"\textbf{", "").rstrip("}") == expected
        if row.run_id == board.baseline:
            assert cells[5] == "base"
        elif "L3" in row.deltas:
            assert cells[5].startswith(f"{100 * row.deltas['L3'].value:+.1f}")
    assert "95" not in text.partition(r"\caption")[2].partition("\n")[0].replace("0.95", "")


def test_hostile_names_stay_text(tmp_path):
    board = hostile_board(tmp_path)
    rows = table_of(markdown(board))
    assert {len(row) for row in rows} == {12}
    assert "<b>" not in markdown(board)
    assert r"a\|b\_c &amp; 50%" in markdown(board)
    text = latex(board)
    (row,) = latex_rows(text)
    assert len(re.findall(r"(?<!\\)&", row)) == 9
    assert r"\input" not in text
    assert escape_latex(r"50% & $a_b$ {c} \d #1 ~^") == (
        r"50\% \& \$a\_b\$ \{c\} \textbackslash{}d \#1 \textasciitilde{}\textasciicircum{}"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(on_disk, tmp_path):
    """In an article with the two packages named in the file: no error, and nothing wider than the page."""
    path = tmp_path / "runs" / "x"
    path.parent.mkdir()
    write_run(path.parent, RunSpec("x"), make_benchmark())
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["model"]["name"] = HOSTILE + ' "é" Δ→≠ 模型 \U0001f600'
    (path / "manifest.json").write_text(json.dumps(manifest))
    table = latex(build_board([path, on_disk.folder / "base", on_disk.folder / "stopped"]), include_reported=True)
    assert "% needs \\usepackage{booktabs,graphicx}" in table
    narrow = narrow_latex(build_board([on_disk.folder / "base", on_disk.folder / "stopped"]))
    (tmp_path / "table.tex").write_text(table, encoding="utf-8")
    (tmp_path / "narrow.tex").write_text(narrow, encoding="utf-8")
    compiled(tmp_path, "\\documentclass{article}\\usepackage{booktabs,graphicx}", "table")
    compiled(tmp_path, "\\documentclass[twocolumn]{article}\\usepackage{booktabs}", "narrow")


def compiled(tmp_path, head, name):
    document = f"{head}\\begin{{document}}\\input{{{name}}}\\end{{document}}"
    (tmp_path / "main.tex").write_text(document)
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, timeout=120)
    log = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, log[-2000:]
    assert (tmp_path / "main.pdf").read_bytes().startswith(b"%PDF")
    assert "Overfull" not in log
    assert "too large" not in log
