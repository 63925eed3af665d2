"""Renders a chat template in a process that the kernel ends. Run as a script by templates.py, with jinja2 alone.

The environment is that of transformers (utils/chat_template_utils.py, 5.23). What a template raises is no matter here.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import datetime

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_S, MEMORY, LONGEST = 3, 1 << 30, 10_000_000  # seconds, bytes, characters; a Qwen template takes milliseconds
TOO_MUCH = 3  # exit code


class _Generation(jinja2.ext.Extension):
    """{% generation %}: what is inside, as it stands."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: object, **options: bool | int | str | None) -> str:
    return json.dumps(value, **({"ensure_ascii": False} | options))  # type: ignore[arg-type]


def main() -> int:
    """Template and conversations from standard input, as JSON."""
    for kind, most in ((resource.RLIMIT_CPU, CPU_S), (resource.RLIMIT_AS, MEMORY)):
        hard = resource.getrlimit(kind)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (least, least))
    asked = json.load(sys.stdin)
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form)}
    for variables in asked["renderings"]:
        try:
            if len(environment.from_string(asked["template"]).render(**variables)) > LONGEST:
                return TOO_MUCH
        except MemoryError:
            return TOO_MUCH
        # transformers' own rendering, which follows, says it.
        except Exception:  # noqa: BLE001
            continue
    return 0


if __name__ == "__main__":
    sys.exit(main())
