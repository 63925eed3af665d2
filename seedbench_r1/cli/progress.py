"""What one sees while a run is running: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from seedbench_r1.api.cost_limit import token_cost
from seedbench_r1.cli import console
from seedbench_r1.runs.answers import recorded
from seedbench_r1.runs.directory import utc_now
from seedbench_r1.types import RunRecord

if TYPE_CHECKING:
    from seedbench_r1.engines.base import Plan

BAR_WIDTH = 24


class EvalProgress:
    """Counts records as they are written. A context manager; observe() may be called from any thread."""

    def __init__(self, planned: Plan, *, quiet: bool = False) -> None:
        self._plan = planned
        self._quiet = quiet
        self._console = console.err()
        self._guard = threading.Lock()
        # The bars begin where the last call ended.
        self._records: dict[str, RunRecord] = self._earlier()
        self._started = time.monotonic()
        self._new = self._new_tokens = 0
        price_in, price_out = planned.config.price_in, planned.config.price_out
        self._prices = None if price_in is None or price_out is None else (price_in, price_out)
        self._cost = 0.0  # of this call, in the currency of the prices
        self._pace = console.LinePace()
        self._live: Live | None = None

    def __enter__(self) -> EvalProgress:
        if self._quiet:
            return self
        for line in self._header():
            self._console.print(line, soft_wrap=True)
        if console.is_live(self._console):
            self._live = Live(console=self._console, refresh_per_second=4, get_renderable=self._picture)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def observe(self, record: RunRecord) -> None:
        """Take note of a record that was just written."""
        with self._guard:
            self._records[record.question_id] = record
            self._new += 1
            if record.generation is not None:
                self._new_tokens += record.generation.n_tokens or 0
                tokens = (record.generation.n_prompt_tokens or 0, record.generation.n_tokens or 0)
                self._cost += token_cost(*tokens, *self._prices) if self._prices else 0.0
            if self._quiet or self._live is not None:
                return
            # In a log file a line now and then.
            if self._pace.speed_if_due(self._new, len(self._plan.questions)) is not None:
                self._console.print(self._line(record.split), soft_wrap=True)

    def say(self, text: str) -> None:
        """A line for the user, above what is live."""
        if not self._quiet:
            self._console.print(text, soft_wrap=True)

    def _earlier(self) -> dict[str, RunRecord]:
        """Records of earlier calls; none if the run starts anew."""
        if self._plan.config.fresh or not (self._plan.path / "manifest.json").exists():
            return {}
        wanted = {question.question_id for question in self._plan.questions}
        records = recorded(self._plan.path)
        return {i: record for i, record in records.items() if i in wanted}

    def _header(self) -> list[str]:
        manifest, config = self._plan.manifest, self._plan.config
        lines = [
            f"seedbench-r1 eval {console.dot()} {manifest.model.name} {console.dot()} protocol {manifest.protocol_id} "
            f"({config.protocol}: {config.video.max_frames} frames, T={config.sampling.temperature:g}, "
            f"{config.sampling.max_new_tokens} new tokens)"
        ]
        done = sum(record.answered for record in self._records.values())
        failed = len(self._records) - done
        if self._records:
            again = f", {failed} errors will be retried" if failed and config.retry_errors else ""
            lines.append(f"resuming {self._plan.path}: {done:,} of {len(self._plan.questions):,} done{again}")
        else:
            lines.append(f"writing {self._plan.path}")
        if self._plan.missing:
            lines.append(f"warning: {len(self._plan.missing)} media files are absent; the run will stay INCOMPLETE")
        return lines

    def _counts(self, split: str) -> tuple[int, int, list[RunRecord]]:
        total = sum(question.split == split for question in self._plan.questions)
        mine = [record for record in self._records.values() if record.split == split and record.answered]
        return len(mine), total, mine

    def _line(self, level: str) -> str:
        done, total, records = self._counts(level)
        accuracy = sum(r.score.credit for r in records if r.score) / done if done else float("nan")
        errors = sum(not record.answered for record in self._records.values())
        rate, eta = self._speed()
        paid = f" cost={self._cost:.4f}" if self._prices else ""
        counts = f"{done}/{total} acc={accuracy:.3f} err={errors}"
        return f"{utc_now()} eval {level} {counts} qps={rate:.2f} eta={eta:.0f}s{paid}"

    def _speed(self) -> tuple[float, float]:
        """Questions per second since the start, and seconds left at that speed."""
        rate = self._new / max(1e-9, time.monotonic() - self._started)
        i, n = self._plan.config.shard or (1, 1)
        mine = sum(place % n == i - 1 for place in range(len(self._plan.questions)))
        answered = sum(record.answered for record in self._records.values())
        # A shard does not see what the others have answered, only what it has written itself.
        left = max(0, mine - (answered if n == 1 else self._new))
        return rate, left / rate if rate else float("nan")

    def _picture(self) -> RenderableType:
        with self._guard:
            levels = list(dict.fromkeys(question.split for question in self._plan.questions))
            rows = [self._bar(level) for level in levels]
            rate, eta = self._speed()
            done = sum(record.answered for record in self._records.values())
            errors = len(self._records) - done
            seconds = max(1e-9, time.monotonic() - self._started)
        # NaN before the first answer.
        left = "unknown" if eta != eta else time.strftime("%H:%M:%S", time.gmtime(eta))
        status = (
            f" {100 * done / max(1, len(self._plan.questions)):.0f} % {console.dot()} {rate:.2f} q/s {console.dot()} "
            f"{self._new_tokens / seconds:.0f} tok/s {console.dot()} ETA {left} {console.dot()} errors {errors}"
        )
        if self._prices:
            limit = self._plan.config.max_cost
            status += f" {console.dot()} cost {self._cost:.2f}" + (f" of {limit:g}" if limit is not None else "")
        return Group(*rows, Text(status))

    def _bar(self, level: str) -> Text:
        from seedbench_r1.cli.results import share_of

        done, total, records = self._counts(level)
        filled = round(BAR_WIDTH * done / max(1, total))
        bar = console.glyph("━", "#") * filled + console.glyph("╌", "-") * (BAR_WIDTH - filled)
        # A Text is drawn as it is.
        text = f" {console.printable(level):<6} {bar} {done:>5}/{total:<5}"
        if not done:
            return Text(text + "  waiting")
        unparsed = sum(r.score.outcome != "answered" for r in records if r.score)
        if self._plan.suite.name != "seedbench-r1":  # credits in between have no such interval
            credit = sum(record.score.credit for record in records if record.score)
            return Text(f"{text}  running score {100 * credit / done:.1f}  unparsed {unparsed}")
        share = share_of(records)
        bounds = f"[{100 * share.lo:.1f}, {100 * share.hi:.1f}]"
        return Text(f"{text}  running acc {100 * share.k / share.n:.1f} {bounds}  unparsed {unparsed}")
