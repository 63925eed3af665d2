"""The page of trainings: an empty one, whose script asks for what it shows."""

from __future__ import annotations

from importlib import resources

import jinja2
from markupsafe import Markup

from leaderboards.draw.page import closed_script, script_hash, static
from seedbench_r1 import __version__

SCRIPTS = ("differences.js", "curves.js", "completions.js", "trainings.js")


def trainings_page(*, runs: bool) -> str:
    """The page as HTML. runs: there is a page of runs, which it links to."""
    code = closed_script(static("elements.js") + "".join(map(_own, SCRIPTS)))
    template = jinja2.Template(_own("trainings.html"), autoescape=True, undefined=jinja2.StrictUndefined)
    page: str = template.render(
        script=Markup(code),
        script_hash=script_hash(code),
        style=Markup(static("report.css") + _own("trainings.css")),
        version=__version__,
        runs=runs,
    )
    return page


def _own(name: str) -> str:
    return resources.files("seedbench_r1.window").joinpath("static", name).read_text(encoding="utf-8")
