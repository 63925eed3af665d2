"""The table for a paper: LaTeX with booktabs, headed as the papers' own tables are."""

from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase

from leaderboards.board import Board
from leaderboards.draw.paper_table import (
    columns,
    comparable_consistency,
    is_bold,
    main_level,
    open_sign,
    printed,
    reported_label,
    row_label,
)
from leaderboards.published import PublishedRow
from leaderboards.ranking import JUDGED
from leaderboards.rows import LeaderboardRow
from leaderboards.stats import Proportion
from seedbench_r1.files import write_text
from seedbench_r1.types import DOMAINS

EMPTY = "--"
# Latin letters with accents end here; the rest needs fonts that a paper may not load.
LAST_LETTER = 0x17F
# What LaTeX would read as a command, and signs that its text fonts lack.
ESCAPES = {
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
    "‡": r"$\ddagger$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
    "→": r"$\rightarrow$",
    "·": r"\textperiodcentered{}",
}


def write_latex(board: Board, path: Path, *, include_reported: bool = False) -> None:
    """leaderboard.tex and, next to it, leaderboard_narrow.tex; need booktabs and graphicx. Raises ResourceError."""
    write_text(path, latex(board, include_reported=include_reported))
    write_text(narrow_path(path), narrow_latex(board))


def narrow_path(path: Path) -> Path:
    """Where the table for one column of two goes."""
    return path.with_name(f"{path.stem}_narrow{path.suffix}")


def latex(board: Board, *, include_reported: bool = False) -> str:
    """A booktabs table with the papers' header. Every member of tier A is bold, not only the highest."""
    # Without a baseline there is nothing to subtract: no empty column.
    main = escape_latex(main_level(board))
    compared = [] if board.baseline is None else [rf"$\Delta$ {name}{main}" for name in ("", r"Consist.\ ", "Sound ")]
    lines = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_caption(board, include_reported=include_reported)}}}",
        # So many columns are wider than a text column: scaled, not cut.
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{ll{'c' * len(columns(board))}c{'c' * len(compared)}}}",
        r"\toprule",
        *_header(board, compared),
        r"\midrule",
        *(_measured(board, row) for row in board.rows),
    ]
    if include_reported and board.published:
        lines.append(r"\midrule")
        # Rows with an average alone would be a line of dashes.
        lines += [_reported(board, row, empty=1 + len(compared)) for row in board.published if row.accuracy]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}"]) + "\n"


def _header(board: Board, compared: list[str]) -> list[str]:
    """The papers' two lines; of other suites, one with their splits."""
    if not board.suite.has_levels:
        names = [escape_latex(name) for name in columns(board)]
        return [_line(["Model", "Rank", *names, rf"Consist.\ {escape_latex(main_level(board))}", *compared])]
    return [
        # The domains belong to L3, whose total is the last of its five columns.
        rf" & & & & \multicolumn{{5}}{{c}}{{L3}} & {'& ' * len(compared)}\\",
        r"\cmidrule(lr){5-9}",
        _line(["Model & Rank & L1 & L2 & Daily & Hobbies & Recr. & Work & Overall", r"Consist.\ L3", *compared]),
    ]


def _measured(board: Board, row: LeaderboardRow) -> str:
    cells = [_name(board, row), escape_latex(row.rank) or EMPTY]
    for name in columns(board):
        # Bounds and dashes are never bold: a tier has only complete rows.
        text = _accuracy(row, name)
        cells.append(rf"\textbf{{{text}}}" if is_bold(board, row, name) else text)
    cells.append(_plus_minus(comparable_consistency(board, row)))
    if board.baseline is not None:
        is_baseline = row.run_id == board.baseline
        main = main_level(board)
        cells += ["baseline" if is_baseline else _difference(row, measure, main) for measure in ("accuracy", *JUDGED)]
    return _line(cells)


def narrow_latex(board: Board) -> str:
    """The table for one column of two: values without intervals, the difference from the baseline with its stars."""
    main, names = main_level(board), [name for name in columns(board) if name not in DOMAINS]
    compared = [] if board.baseline is None else [rf"$\Delta$ {escape_latex(main)}"]
    heads = ["Model", *map(escape_latex, names), rf"Cons.\ {escape_latex(main)}", *compared]
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{3.5pt}",
        rf"\caption{{{_caption(board, include_reported=False, intervals=False)}}}",
        rf"\begin{{tabular}}{{l{'c' * (len(heads) - 1)}}}",
        r"\toprule",
        _line(heads),
        r"\midrule",
        *(_narrow_row(board, row, names) for row in board.rows),
    ]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _narrow_row(board: Board, row: LeaderboardRow, names: list[str]) -> str:
    cells = [_name(board, row)]
    for name in names:
        cell = row.accuracy.get(name)
        text = EMPTY if cell is None or cell.n == 0 else f"{100 * cell.value:.1f}"
        cells.append(rf"\textbf{{{text}}}" if is_bold(board, row, name) else text)
    consistency = comparable_consistency(board, row)
    cells.append(EMPTY if consistency is None or consistency.n == 0 else f"{100 * consistency.value:.1f}")
    if board.baseline is not None:
        delta = row.delta("accuracy", main_level(board))
        stars = row.stars(main_level(board))
        marks = rf"\textsuperscript{{{stars}}}" if stars else ""
        shown = EMPTY if delta is None else f"{100 * delta.value:+.1f}{marks}"
        cells.append("base" if row.run_id == board.baseline else shown)
    return _line(cells)


def _name(board: Board, row: LeaderboardRow) -> str:
    """The label, with a letter for each of the row's flags, which the caption explains."""
    letters = flag_letters(board)
    marks = ",".join(letters[flag] for flag in row.flags)
    return escape_latex(row_label(row)) + (rf"\textsuperscript{{{marks}}}" if marks else "")


def flag_letters(board: Board) -> dict[str, str]:
    """Flag -> its letter, in the order of the rows."""
    flags = dict.fromkeys(flag for row in board.rows for flag in row.flags)
    return {flag: ascii_lowercase[i % 26] * (1 + i // 26) for i, flag in enumerate(flags)}


def _difference(row: LeaderboardRow, measure: str, level: str) -> str:
    delta = row.delta(measure, level)
    if delta is None:
        return EMPTY
    interval = rf"\textsubscript{{[{100 * delta.lo:+.1f}, {100 * delta.hi:+.1f}]}}"
    stars = row.stars(level, measure)
    marks = rf"\textsuperscript{{{stars}{escape_latex(open_sign(delta))}}}" if stars or open_sign(delta) else ""
    return f"{100 * delta.value:+.1f}{interval}{marks}"


def _reported(board: Board, row: PublishedRow, *, empty: int) -> str:
    name = rf"\textit{{{escape_latex(reported_label(row))}}}\textsuperscript{{$\dagger$}}"
    return _line([name, EMPTY, *(escape_latex(printed(row, column)) for column in columns(board)), *[EMPTY] * empty])


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _caption(board: Board, *, include_reported: bool, intervals: bool = True) -> str:
    within = " with 95\\,\\% intervals, clustered by video" if intervals else ""
    text = (
        f"{escape_latex(board.title)} accuracy (\\%){within}. Bold: not "
        f"significantly below the best in {escape_latex(str(board.metric))} (cluster sign-flip "
        "test, Holm)."
    )
    if intervals:
        text += " Rank: interval of ranks."
    if board.judge_id is not None:
        text += f" Consistency judged by {escape_latex(board.judge_id)}."
    if board.baseline is not None:
        text += (
            f" $\\Delta$: minus {escape_latex(board.baseline)}, points, paired{', with interval' * intervals}; "
            r"* $p<0.05$, ** $p<0.01$, *** $p<0.001$ (cluster sign-flip test, Holm)."
        )
    deltas = [row.delta(measure, main_level(board)) for row in board.rows for measure in JUDGED]
    if any(delta is not None and delta.sign_is_open for delta in deltas):
        text += r" $\ddagger$: missing verdicts leave the sign open."
    if board.judge_id is not None:
        text += " Sound: right and consistent."
    if any(row.bounds for row in board.rows):
        text += " Bounds in brackets: incomplete, missing answers all wrong to all right."
    if letters := flag_letters(board):
        listed = ", ".join(f"({letter}) {escape_latex(flag)}" for flag, letter in letters.items())
        text += f" Flags: {listed}."
    if include_reported and board.published:
        text += r" $\dagger$: as reported by its authors, own settings, not ranked."
    return text


def _accuracy(row: LeaderboardRow, name: str) -> str:
    # Of an incomplete group only the bounds are known.
    bounds = row.bounds.get(name)
    return f"[{100 * bounds.lo:.1f}, {100 * bounds.hi:.1f}]" if bounds else _plus_minus(row.accuracy.get(name))


def _plus_minus(cell: Proportion | None) -> str:
    if cell is None or cell.n == 0:
        return EMPTY
    return rf"{100 * cell.value:.1f}\textsubscript{{$\pm${50 * (cell.hi - cell.lo):.1f}}}"


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is. What pdfLaTeX has no letter for becomes a question mark."""
    # Line breaks in a name would end the row.
    known = (ESCAPES.get(char, char) for char in " ".join(text.split()))
    return "".join(part if len(part) > 1 or ord(part) <= LAST_LETTER else "?" for part in known)
