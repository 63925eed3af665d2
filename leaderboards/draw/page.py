"""Board -> one HTML file that needs nothing else: no network, no other file, and no script for its table."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

from leaderboards.board import Board
from leaderboards.draw.charts import QUADRANT_PARTS, consistency_chart, level_chart
from leaderboards.draw.page_figures import gap_rows, quadrant_bars, scatter_view, slope_view
from leaderboards.draw.page_payload import (
    Detail,
    DetailShare,
    allocate,
    bank_layer,
    by_interest,
    more_layers,
    outcome_bytes,
    pack,
    pack_json,
)
from leaderboards.draw.page_pictures import MOST, Pictures, take_pictures
from leaderboards.draw.page_probes import probe_tables
from leaderboards.draw.page_table import table_view
from leaderboards.draw.page_training import training_section
from leaderboards.methods import methods
from leaderboards.provenance import shareable
from leaderboards.stats.paired import SEED
from leaderboards.story import story
from seedbench_r1 import __version__
from seedbench_r1.files import make_folder, write_text
from seedbench_r1.types import DOMAINS

# One script, in this order: each file uses what is defined before it.
SCRIPTS = (
    *("stats.js", "elements.js", "data.js", "state.js", "table.js", "baseline.js"),
    *("compare.js", "card.js", "dialogs.js", "report.js"),
)


TEXTS = "<!--texts-->\n"  # nothing else on the page can say this: every `<` of a name, a path or a model is escaped


@dataclass(frozen=True, slots=True)
class HtmlReport:
    """What was written."""

    path: Path
    n_bytes: int  # of the file
    shares: tuple[DetailShare, ...]  # one a row: how much of its text the page carries
    pictures: Pictures

    @property
    def allocation(self) -> str:
        """ "reasoning: 1,204 of 4,676 questions, of every run", or "all" or "none" of it."""
        carried, total = (max((getattr(s, name) for s in self.shares), default=0) for name in ("n_included", "n_total"))
        if all(share.full for share in self.shares):
            return "reasoning: all of it"
        return f"reasoning: {carried:,} of {total:,} questions, of every run" if carried else "reasoning: none"


def write_html(
    board: Board,
    path: Path,
    *,
    detail: Detail = "auto",
    max_bytes: int = 10_000_000,
    pictures: int | None = None,
    built_utc: str | None = None,
) -> HtmlReport:
    """Write the page, completely or not at all.

    Args:
        board: what to show.
        path: of the file; its folder is made.
        detail: whose reasoning the page carries: "auto" as much as fits, see `page_payload.allocate`; "full" all of
            it, however large; "none".
        max_bytes: of the file, for "auto". The table, the questions and all answers are always in it.
        pictures: questions, the most telling first, whose frames and view the page shows where their media are there
            (at most a third of max_bytes); None: some where they may be shown (a toy world, --free-media), else none.
        built_utc: the time shown, ISO 8601; now by default. With it given the same board gives the same bytes.

    Raises:
        ResourceError: the file cannot be written.
    """
    rendered = render_html(board, detail=detail, max_bytes=max_bytes, pictures=pictures, built_utc=built_utc)
    make_folder(path.parent)
    write_text(path, rendered.text)
    return HtmlReport(path, len(rendered.text.encode("utf-8")), rendered.shares, rendered.pictures)


@dataclass(frozen=True, slots=True)
class Served:
    """Of a page that is served with the texts and the media next to it, and carries neither."""

    name: str  # of this page, in the addresses of texts and media
    trainings: bool  # the page links to trainings/


@dataclass(frozen=True, slots=True)
class RenderedPage:
    """The page as text."""

    text: str
    shares: tuple[DetailShare, ...]
    pictures: Pictures


def render_html(
    board: Board,
    *,
    detail: Detail = "auto",
    max_bytes: int = 10_000_000,
    pictures: int | None = None,
    built_utc: str | None = None,
    served: Served | None = None,
) -> RenderedPage:
    """The page of write_html, whose arguments these are; of a served one `detail` and `pictures` say nothing."""
    built = built_utc or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    # Always on the page: a baseline chosen by the reader needs every answer of every run.
    layers = {
        "bank": pack_json(bank_layer(board.bank)),
        "outcomes": pack(b"".join(outcome_bytes(measured.outcomes) for measured in board.measured.values())),
        **more_layers(board),
    }
    if served is not None:
        before, after = _without_texts(board, layers, built, Pictures(), served)
        return RenderedPage(before + after, (), Pictures())
    # Rendered once: how many texts fit is known only when everything else has its size.
    order = by_interest(list(board.measured.values()), board.bank)
    shown = take_pictures(board, order, pictures, int(max_bytes * MOST))
    before, after = _without_texts(board, layers, built, shown, None)
    details = allocate(board, detail, max_bytes - len((before + after).encode("utf-8")))
    carried = [(i, details.layers[row.run_id]) for i, row in enumerate(board.rows) if row.run_id in details.layers]
    texts = "".join(f'<script type="text/plain" id="detail-{i}">{text}</script>\n' for i, text in carried)
    return RenderedPage(f"{before}{texts}{after}", details.shares, shown)


def script() -> str:
    """The page's one script."""
    return closed_script("".join(static(name) for name in SCRIPTS))


def closed_script(body: str) -> str:
    """A script whose names are its own."""
    return f'"use strict";\n(() => {{\n{body}}})();\n'


def script_hash(code: str) -> str:
    """What a page's content policy allows it by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(code.encode("utf-8")).digest()).decode("ascii")


def _without_texts(
    board: Board, layers: dict[str, str], built: str, shown: Pictures, served: Served | None
) -> tuple[str, str]:
    """The page before and after the place where the responses' texts go."""
    code = script()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("leaderboards.draw", "templates"),
        autoescape=True,
        # A misspelt field must fail here, not leave a cell empty.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Templates compute nothing: what they show is text or a coordinate by now.
    context: dict[str, object] = {
        "board": board,
        "story": [shareable(sentence) for sentence in story(board)],
        "chance": _chance(board),
        "pictures": _inert_json(shown.layer()) if shown.of else "",
        "pictures_note": shown.note,
        "links": {} if board.bank.is_toy else board.suite.links,
        "built": built,
        "built_day": built[:10],
        "version": __version__,
        "table": table_view(board),
        "slope": slope_view(level_chart(board)),
        "gaps": gap_rows(board),
        "scatter": scatter_view(consistency_chart(board)),
        "bars": quadrant_bars(board),
        "parts": QUADRANT_PARTS,
        "training": training_section(board),
        "probes": probe_tables(board),
        "dataset": " + ".join(sorted({row.dataset_rev for row in board.rows})),
        "judge": shareable(board.judge_id or ""),
        "judged": _is_judged(board),
        "methods": [shareable(sentence) for sentence in methods(board)],
        "warnings": [shareable(warning) for warning in board.warnings],
        # The name alone: the folder it lies in may name a person.
        "left_out": [(item.path.name, shareable(item.reason)) for item in board.left_out],
        "script": Markup(code),
        # The policy allows this script and nothing else, so output of a model cannot run.
        "script_hash": script_hash(code),
        "style": Markup(static("report.css")),
        "data": _inert_json(_page_data(board) | ({"served": served.name} if served else {})),
        "sources": "img-src data: 'self'; media-src 'self'; connect-src 'self'" if served else "img-src data:",
        "trainings": served is not None and served.trainings,
        "layers": layers,
    }
    page = environment.get_template("page.html").render(context)
    page = page.encode("utf-8", "replace").decode("utf-8")  # lone surrogates become question marks
    before, _, after = page.partition(TEXTS)
    return before, after


def _page_data(board: Board) -> dict[str, object]:
    """What the script must know of the rows, in the board's order; all else it reads from the table."""
    # The script draws the same signs as Python, from the same state: its p-values are equal, not similar.
    words = np.random.PCG64(SEED).state["state"]
    return {
        "runs": [
            {
                "id": row.run_id,
                "name": row.model,
                "protocol": row.protocol_id,
                # The page gives such a run no stars, whatever the baseline.
                "picked": (row.selected_from_k or 1) > 1,
                "samples": row.n_samples,
                # Where its consistency may be compared: by the board's judge, on levels that have reasoning.
                "rated": [level for level in row.consistency if row.judge_id == board.judge_id],
            }
            for row in board.rows
        ],
        "levels": board.bank.levels,
        "domains": [name for name in DOMAINS if name in board.bank.groups],
        "level": board.metric.level,
        "baseline": board.baseline,
        "forceMixed": board.force_mixed,
        "judged": _is_judged(board),
        "signs": [format(words["state"], "x"), format(words["inc"], "x")],
    }


def _chance(board: Board) -> str:
    """ "25": percent right by guessing on the metric's level; "" where no question of it has options."""
    inside = zip(board.bank.questions, board.bank.group(board.metric.level).tolist(), strict=True)
    shares = [1 / len(question.options) for question, yes in inside if yes and question.options]
    return f"{100 * np.mean(shares):.0f}" if shares else ""


def _is_judged(board: Board) -> bool:
    """Whether any answer has a verdict."""
    return any(bool(measured.outcomes.judged.any()) for measured in board.measured.values())


def _inert_json(value: object) -> Markup:
    """JSON that cannot end the element around it: `<` is written as an escape."""
    return Markup(json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))


def static(name: str) -> str:
    """A file of the pages' style or script."""
    return resources.files("leaderboards.draw").joinpath("static", name).read_text(encoding="utf-8")
