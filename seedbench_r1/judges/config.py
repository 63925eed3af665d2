"""Which judge is asked, and how: the settings of `judge`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seedbench_r1.config_file import ConfigTable, read_config_file
from seedbench_r1.errors import ConfigError
from seedbench_r1.judges.wording import MAX_TOKENS
from seedbench_r1.options import check_values, refuse_strangers, setting, settings_of

JUDGE, LIMITS = "Judge", "Limits"
GROUPS = (JUDGE, LIMITS)  # in the order of --help
JUDGES = ("rules", "openai:MODEL", "local:PATH", "miniature")
# Owners: an option of another judge is refused by name, not ignored.
_API = ("judge openai:MODEL",)
_MODELS = ("judge openai:MODEL", "judge local:PATH")


@dataclass(frozen=True, slots=True)
class JudgeConfig:
    """Everything `judge` needs, resolved: defaults < [judge] of the TOML file < command line."""

    judge: str = setting("rules", f"One of {', '.join(JUDGES)}.", JUDGE)
    base_url: str | None = setting(None, "OpenAI-compatible server.", JUDGE, flag="--judge-base-url", owners=_API)
    prompt: Literal["v1", "v2"] = setting(
        "v2", "v1 asks for the verdict before its reason.", JUDGE, flag="--judge-prompt", owners=_MODELS
    )
    prompt_file: Path | None = setting(None, "Your wording, as plain text.", JUDGE, owners=_MODELS)
    max_tokens: int | None = setting(
        None,
        "Of a verdict and the thoughts before it; 2048, and of v1 300.",
        JUDGE,
        flag="--judge-max-tokens",
        at_least=1,
        owners=_MODELS,
    )
    votes: int = setting(1, "Votes per case; shows the flip rate.", JUDGE, at_least=1, owners=_API)
    temperature: str | None = setting(
        None,
        "A number; none: the server's own. 0, and with several votes 0.7.",
        JUDGE,
        flag="--judge-temperature",
        alias="--temperature",
        owners=_API,
    )
    batch_size: int = setting(8, "Cases at once.", JUDGE, at_least=1, owners=("judge local:PATH",))
    concurrency: int = setting(8, "Requests in flight.", LIMITS, at_least=1, owners=_API)
    timeout_s: float = setting(120.0, "Seconds for a reply.", LIMITS, flag="--timeout", above=0, owners=_API)
    tries: int = setting(6, "For one request, with back-off.", LIMITS, at_least=1, owners=_API)
    max_cost: float | None = setting(None, "Needs the two prices.", LIMITS, at_least=0, owners=_API)
    price_in: float | None = setting(None, "Per million prompt tokens.", LIMITS, at_least=0, owners=_API)
    price_out: float | None = setting(None, "Per million new tokens.", LIMITS, at_least=0, owners=_API)
    limit: int | None = setting(None, "New verdicts per run.", LIMITS, at_least=1)

    @property
    def kind(self) -> str:
        """ "rules", "openai", "local" or "miniature"."""
        return self.judge.partition(":")[0]

    @property
    def model(self) -> str:
        """What follows the kind: a model's name or a checkpoint; empty if nothing does."""
        return self.judge.partition(":")[2]

    @property
    def version(self) -> int:
        """Of prompt, schema and reading."""
        return int(self.prompt.removeprefix("v"))

    @property
    def verdict_tokens(self) -> int:
        """The limit of a single reply."""
        return MAX_TOKENS[self.version] if self.max_tokens is None else self.max_tokens

    @property
    def vote_temperature(self) -> float | None:
        """None: the server's own. Raises ConfigError for a text that is neither none nor a number of at least 0."""
        if self.temperature is None:
            # At temperature 0 several votes would all be the same.
            return 0.7 if self.votes > 1 else 0.0
        return parse_temperature(self.temperature)

    @property
    def prices(self) -> tuple[float, float] | None:
        """Per million prompt and new tokens; None unless both are known."""
        return None if self.price_in is None or self.price_out is None else (self.price_in, self.price_out)


def parse_temperature(text: str) -> float | None:
    """ "0.7" -> 0.7; "none" -> None. Raises ConfigError for anything else, or a number below 0."""
    if text.strip().lower() == "none":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(
            f"--judge-temperature is {text!r}, expected a number of at least 0, or none: nothing is sent."
        )
    return value


TABLE = settings_of(JudgeConfig)
JUDGE_TABLE = ConfigTable("judge", TABLE)


def resolve_judge_config(options: Mapping[str, Any], *, config_file: Path | None = None) -> JudgeConfig:
    """Merge the sources. Raises ConfigError: an unknown judge or key, a value out of range, an option of another judge.

    Args:
        options: the command line's values by name; None means "not given".
        config_file: TOML with the same names under [judge]; by default ./seedbench-r1.toml, if any.
    """
    # Only what was typed is refused for the wrong judge; a shared file may hold options of several.
    given = {name: value for name, value in options.items() if value is not None}
    merged = {**read_config_file(config_file, Path(), JUDGE_TABLE), **given}
    # TOML and Python hold it as a number, the command line as a text that may be "none".
    if isinstance(merged.get("temperature"), (int, float)):
        merged["temperature"] = str(merged["temperature"])
    config = JudgeConfig(**merged)
    # A kind that needs a model and one that takes none are both checked here.
    needs_model = {"rules": False, "openai": True, "local": True, "miniature": False}.get(config.kind)
    if needs_model is None or needs_model != bool(config.model):
        raise ConfigError(f"No judge {config.judge!r}. There are: {', '.join(JUDGES)}.")
    refuse_strangers(given, TABLE, {"judge": config.kind})
    check_values({name: getattr(config, name) for name in TABLE}, TABLE)
    if config.temperature is not None:
        parse_temperature(config.temperature)
    # No price list is kept here: it would be out of date, and a wrong limit costs money.
    if config.max_cost is not None and config.prices is None:
        raise ConfigError("--max-cost needs --price-in and --price-out (per million tokens).")
    return config
