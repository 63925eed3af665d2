"""The table for a README (Markdown) and for a paper (LaTeX with booktabs)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from leaderboards.board import Board
from leaderboards.methods import methods
from leaderboards.published import PublishedRow
from leaderboards.rows import Cell, LeaderboardRow
from seedbench_r1.files import write_text

# As in the papers' tables: levels, with L3's domains before its total.
COLUMNS = ("L1", "L2", "Daily life", "Hobbies", "Recreation", "Work", "L3")
DASH = "–"
REPORTED = "†"
_NO_LETTER = 0x180  # Latin letters with accents end here: the rest needs fonts that a paper may not load

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "≠": r"$\neq$",
    "–": "--",
    "−": "-",
    "†": r"$\dagger$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
    "→": r"$\rightarrow$",
    "·": r"\textperiodcentered{}",
}


def write_markdown(board: Board, path: Path, *, include_reported: bool = False) -> None:
    """leaderboard.md. Raises ResourceError."""
    write_text(path, markdown(board, include_reported=include_reported))


def write_latex(board: Board, path: Path, *, include_reported: bool = False) -> None:
    """leaderboard.tex: a table environment; needs \\usepackage{booktabs,graphicx}. Raises ResourceError."""
    write_text(path, latex(board, include_reported=include_reported))


def markdown(board: Board, *, include_reported: bool = False) -> str:
    """A table with intervals as plus-minus, then how it was made."""
    header = ["Rank", "Tier", "Model", *_titles(), "Consistency L3", "Flags"]
    if board.baseline is not None:
        header.insert(-1, "Δ L3")
    lines = ["# SEED-Bench-R1 leaderboard", "", *(f"> {_escape_markdown(text)}" for text in board.warnings)]
    lines += [*([""] if board.warnings else []), markdown_row(header), markdown_row("---" for _ in header)]
    for row in board.rows:
        cells = [row.rank or DASH, row.tier or DASH, _escape_markdown(_label(row))]
        cells += [_bold(_accuracy(row, name), _is_best(board, row, name), "**{}**") for name in COLUMNS]
        cells.append(_plus_minus(_comparable_consistency(board, row)))
        if board.baseline is not None:
            cells.append("baseline" if row.run_id == board.baseline else _difference(row))
        lines.append(markdown_row([*cells, _escape_markdown(", ".join(row.flags)) or DASH]))
    for reported in board.published if include_reported else ():
        cells = [DASH, DASH, f"*{_escape_markdown(_reported_label(reported))}* {REPORTED}"]
        cells += [_printed(reported, name) for name in COLUMNS]
        cells.append(DASH)
        if board.baseline is not None:
            cells.append(DASH)
        lines.append(markdown_row([*cells, _escape_markdown(", ".join((*reported.flags, _source(reported))))]))
    notes = [f"- {_escape_markdown(sentence)}" for sentence in methods(board)]
    return "\n".join([*lines, "", "Percent ± half of the 95 % interval. Bold: tier A.", "", *notes]) + "\n"


def latex(board: Board, *, include_reported: bool = False) -> str:
    """A booktabs table with the papers' header. Every member of tier A is bold, not only the highest."""
    lines = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_caption(board, include_reported)}}}",
        r"\resizebox{\linewidth}{!}{%",
        r"\begin{tabular}{llcccccccc}",
        r"\toprule",
        r" & & & & \multicolumn{5}{c}{L3} & \\",
        r"\cmidrule(lr){5-9}",
        r"Model & Rank & L1 & L2 & Daily & Hobbies & Recr. & Work & Overall & Consist.\ L3 \\",
        r"\midrule",
    ]
    for row in board.rows:
        cells = [escape_latex(_label(row)), escape_latex(row.rank) or "--"]
        for name in COLUMNS:
            cells.append(_bold(_latex_accuracy(row, name), _is_best(board, row, name), r"\textbf{{{}}}"))
        cells.append(_latex_cell(_comparable_consistency(board, row)))
        lines.append(" & ".join(cells) + r" \\")
    if include_reported and board.published:
        lines.append(r"\midrule")
    for reported in (row for row in board.published if include_reported and row.accuracy):
        label = rf"\textit{{{escape_latex(_reported_label(reported))}}}\textsuperscript{{$\dagger$}}"
        cells = [label, "--", *(escape_latex(_printed(reported, name)) for name in COLUMNS), "--"]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}"]) + "\n"


def _caption(board: Board, include_reported: bool) -> str:
    text = (
        f"SEED-Bench-R1 accuracy (\\%) with 95\\,\\% intervals, clustered by video. Bold: not significantly below the "
        f"best in {escape_latex(str(board.metric))} (cluster sign-flip test, Holm). Rank: interval of ranks."
    )
    if board.judge_id is not None:
        text += f" Consistency judged by {escape_latex(board.judge_id)}."
    if any(row.bounds for row in board.rows):
        text += " Bounds in brackets: incomplete, missing answers all wrong to all right."
    if include_reported and board.published:
        text += r" $\dagger$: as reported by its authors, own settings, not ranked."
    return text


def _titles() -> list[str]:
    return [name if name in ("L1", "L2", "L3") else f"L3 {name}" for name in COLUMNS]


def _label(row: LeaderboardRow) -> str:
    return row.model if row.model == row.run_id or row.step is None else f"{row.model} (step {row.step})"


def _reported_label(row: PublishedRow) -> str:
    return row.method if not row.base_model else f"{row.method}, {row.base_model}"


def _source(row: PublishedRow) -> str:
    return f"{row.source}, {row.table}"


def _is_best(board: Board, row: LeaderboardRow, name: str) -> bool:
    return row.tier == "A" and board.metric.measure == "accuracy" and name == board.metric.level


def _comparable_consistency(board: Board, row: LeaderboardRow) -> Cell | None:
    """Consistency on L3, unless another judge than the board's said so: one column never mixes judges."""
    return row.consistency.get("L3") if row.judge_id == board.judge_id else None


def _plus_minus(cell: Cell | None) -> str:
    return DASH if cell is None or cell.n == 0 else f"{100 * cell.value:.1f} ±{50 * (cell.hi - cell.lo):.1f}"


def _accuracy(row: LeaderboardRow, name: str) -> str:
    bounds = row.bounds.get(name)
    return f"{100 * bounds.lo:.1f} to {100 * bounds.hi:.1f}" if bounds else _plus_minus(row.accuracy.get(name))


def _latex_accuracy(row: LeaderboardRow, name: str) -> str:
    bounds = row.bounds.get(name)
    return f"[{100 * bounds.lo:.1f}, {100 * bounds.hi:.1f}]" if bounds else _latex_cell(row.accuracy.get(name))


def _latex_cell(cell: Cell | None) -> str:
    if cell is None or cell.n == 0:
        return "--"
    return rf"{100 * cell.value:.1f}\textsubscript{{$\pm${50 * (cell.hi - cell.lo):.1f}}}"


def _difference(row: LeaderboardRow) -> str:
    delta = row.deltas.get("L3")
    if delta is None:
        return DASH
    shown = f"{100 * delta.value:+.1f} [{100 * delta.lo:.1f}, {100 * delta.hi:.1f}]"
    stars = row.stars("L3").replace("*", "\\*")
    few = f" n={delta.n}" if delta.p is None else ""
    return f"{shown}{stars}{few}"


def _printed(row: PublishedRow, name: str) -> str:
    return row.accuracy[name].printed if name in row.accuracy else DASH


def _bold(text: str, wanted: bool, form: str) -> str:
    return form.format(text) if wanted and text not in (DASH, "--") else text


def markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is: no table cell ends early, no HTML, no emphasis, no line break."""
    flat = " ".join(text.split())
    for char in ("\\", "`", "*", "_", "[", "]", "|"):
        flat = flat.replace(char, f"\\{char}")
    return flat.replace("&", "&amp;").replace("<", "&lt;")


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is. What pdfLaTeX has no letter for becomes a question mark."""
    known = (_LATEX.get(char, char) for char in " ".join(text.split()))
    return "".join(part if len(part) > 1 or ord(part) < _NO_LETTER else "?" for part in known)
