"""What one sees while a run is running: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from seedbench_r1.api.cost_limit import token_cost
from seedbench_r1.cli import console
from seedbench_r1.cli.results import Scored, share_of
from seedbench_r1.files import utc_now
from seedbench_r1.packed import Texts
from seedbench_r1.terminal import printable
from seedbench_r1.types import Question, RunRecord

if TYPE_CHECKING:
    from seedbench_r1.config import EvalConfig
    from seedbench_r1.engines.base import Plan

BAR_WIDTH = 14  # the line fits into 80 columns with it
BURST_S = 1.0  # answers within so many seconds of the first one are of one batch
DAY_S = 86_400


class Speed:
    """How fast questions are answered, from the first answer on: loading a model is no part of it."""

    def __init__(self) -> None:
        self._since: float | None = None  # the first answers' time, seconds of a monotonic clock
        self._first = self._last = 0.0
        self._questions = self._tokens = 0  # after the first answers

    def note(self, now: float, *, answered: bool, tokens: int) -> None:
        """Count a record that was written now."""
        if self._since is None:
            if answered:
                self._first = self._since = now
        # A batch comes at once, and was begun before the clock was: it starts the clock and is not counted.
        elif not self._questions and now - self._first < BURST_S:
            self._since = now
        else:
            self._last = now
            self._questions += 1
            self._tokens += tokens

    @property
    def begun(self) -> bool:
        """Whether there is an answer."""
        return self._since is not None

    def rates(self) -> tuple[float, float] | None:
        """Questions and new tokens per second; None until something came after the first answers."""
        if self._since is None or not self._questions:
            return None
        seconds = max(1e-9, self._last - self._since)
        return self._questions / seconds, self._tokens / seconds

    def seconds_left(self, now: float, questions: int) -> float | None:
        """For so many questions; None while there is no rate."""
        rates = self.rates()
        if rates is None or self._since is None:
            return None
        # Counted down between batches; when they stay out for longer than usual, slower than before.
        left = questions / rates[0] - (now - self._last)
        return left if left > 0 else questions * (now - self._since) / self._questions


class EvalProgress:
    """Counts records as they are written. A context manager; observe() may be called from any thread."""

    def __init__(self, planned: Plan, *, quiet: bool = False) -> None:
        self._plan = planned
        self._quiet = quiet
        self._console = console.err()
        self._guard = threading.Lock()
        self._totals: Counter[str] = Counter()  # split -> questions of the plan
        self._answered: dict[str, _Answered] = {}  # of the plan's questions, by split, earlier calls' too
        self._failed: set[str] = set()  # likewise
        self._left = 0  # questions of this call and shard without a record
        self._speed = Speed()
        self._new = 0
        price_in, price_out = planned.config.price_in, planned.config.price_out
        self._prices = None if price_in is None or price_out is None else (price_in, price_out)
        self._cost: float | None = 0.0  # of this call, in the currency of the prices; None: unknown
        self._pace = console.LinePace()
        self._live: Live | None = None

    def __enter__(self) -> EvalProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def opened(self, records: Mapping[str, RunRecord], pending: Sequence[Question]) -> None:
        """Begin to show: the run is open, so that nothing is said of one that is refused."""
        # The bars begin where the last call ended.
        for question in self._plan.questions:
            self._totals[question.split] += 1
            if (record := records.get(question.question_id)) is not None:
                self._count(record)
        self._left = len(pending)
        self._pace.restart(0)
        if self._quiet:
            return
        for line in self._header():
            self._console.print(line, soft_wrap=True)
        if console.is_live(self._console):
            self._live = Live(console=self._console, refresh_per_second=4, get_renderable=self._picture)
            self._live.start()
        elif pending:
            self._console.print(_before_answers(self._plan.config), soft_wrap=True)

    def observe(self, record: RunRecord) -> None:
        """Take note of a record that was just written."""
        with self._guard:
            self._count(record)
            self._left = max(0, self._left - 1)
            self._new += 1
            new_tokens = record.generation.n_tokens or 0 if record.generation is not None else 0
            self._speed.note(time.monotonic(), answered=record.answered, tokens=new_tokens)
            if record.generation is not None:
                read, written = record.generation.n_prompt_tokens, record.generation.n_tokens
                if read is None or written is None:
                    self._cost = None
                elif self._cost is not None and self._prices:
                    self._cost += token_cost(read, written, *self._prices)
            if self._quiet or self._live is not None:
                return
            # In a log file a line now and then.
            if self._pace.speed_if_due(self._new, len(self._plan.questions)) is not None:
                self._console.print(self._line(record.split), soft_wrap=True)

    def _count(self, record: RunRecord) -> None:
        if record.score is None:
            self._failed.add(record.question_id)
            return
        self._failed.discard(record.question_id)
        self._answered.setdefault(record.split, _Answered()).add(record)

    def say(self, text: str) -> None:
        """A line for the user, above what is live."""
        if not self._quiet:
            self._console.print(text, soft_wrap=True)

    def _header(self) -> list[str]:
        manifest, config = self._plan.manifest, self._plan.config
        lines = [
            f"seedbench-r1 eval {console.dot()} {manifest.model.name} {console.dot()} protocol {manifest.protocol_id} "
            f"({config.protocol}: {config.video.max_frames} frames, T={config.sampling.temperature:g}, "
            f"{config.sampling.max_new_tokens} new tokens)"
        ]
        done, failed = sum(some.n for some in self._answered.values()), len(self._failed)
        if done or failed:
            part = f", {self._left:,} asked in this shard" if config.shard is not None else ""
            again = f", {failed} errors will be retried" if failed and config.retry_errors else ""
            lines.append(f"resuming {self._plan.path}: {done:,} of {len(self._plan.questions):,} done{again}{part}")
        else:
            lines.append(f"writing {self._plan.path}")
        if self._plan.missing:
            lines.append(f"warning: {len(self._plan.missing)} media files are absent; the run will stay INCOMPLETE")
        return lines

    def _counts(self, split: str) -> tuple[_Answered, int]:
        return self._answered.get(split, _Answered()), self._totals[split]

    def _line(self, level: str) -> str:
        answered, total = self._counts(level)
        accuracy = sum(answered.scored.credits) / answered.n if answered.n else float("nan")
        rates, left = self._speed.rates(), self._speed.seconds_left(time.monotonic(), self._left)
        speed = "eta=unknown" if rates is None or left is None else f"qps={rates[0]:.2f} eta={left:.0f}s"
        cost = "unknown" if self._cost is None else f"{self._cost:.4f}"
        paid = f" cost={cost}" if self._prices else ""
        done = f"{answered.n}/{total} acc={accuracy:.3f} err={len(self._failed)}"
        return f"{utc_now()} eval {level} {done} {speed}{paid}"

    def _status(self) -> str:
        """Speed and time left, or what happens before they are known."""
        rates, left = self._speed.rates(), self._speed.seconds_left(time.monotonic(), self._left)
        if rates is not None and left is not None:
            clock = time.strftime("%H:%M:%S", time.gmtime(left)) if left < DAY_S else f"{left / DAY_S:.1f} days"
            return console.dot().join((f"{rates[0]:.2f} q/s ", f" {rates[1]:.0f} tok/s ", f" ETA {clock}"))
        if not self._left:
            return "nothing left to ask"
        if self._speed.begun:
            return "first answers, ETA unknown yet"
        return "waiting for the first answer" if self._new else f"{_before_answers(self._plan.config)}, no answer yet"

    def _picture(self) -> RenderableType:
        with self._guard:
            rows = [self._bar(level) for level in self._totals]
            status = self._status()
            done, errors = sum(some.n for some in self._answered.values()), len(self._failed)
        share = f"{100 * done / max(1, len(self._plan.questions)):.0f} %"
        status = f" {share} {console.dot()} {status} {console.dot()} errors {errors}"
        if self._prices:
            limit = self._plan.config.max_cost
            cost = "unknown" if self._cost is None else f"{self._cost:.2f}"
            status += f" {console.dot()} cost {cost}" + (f" of {limit:g}" if limit is not None else "")
        return Group(*rows, Text(status))

    def _bar(self, level: str) -> Text:
        answered, total = self._counts(level)
        done = answered.n
        filled = round(BAR_WIDTH * done / max(1, total))
        bar = console.glyph("━", "#") * filled + console.glyph("╌", "-") * (BAR_WIDTH - filled)
        # A Text is drawn as it is.
        text = f" {printable(level):<6} {bar} {done:>5}/{total:<5}"
        if not done:
            return Text(text + "  waiting")
        unparsed = answered.unparsed
        if self._plan.suite.name != "seedbench-r1":  # credits in between have no such interval
            credit = sum(answered.scored.credits)
            return Text(f"{text}  running score {100 * credit / done:.1f}  unparsed {unparsed}")
        share = share_of(answered.scored)
        bounds = f"[{100 * share.lo:.1f}, {100 * share.hi:.1f}]"
        return Text(f"{text}  running acc {100 * share.k / share.n:.1f} {bounds}  unparsed {unparsed}")


class _Answered:
    """The answers of a split so far, each question once."""

    def __init__(self) -> None:
        self.scored, self.unparsed, self._ids = Scored(), 0, Texts()

    @property
    def n(self) -> int:
        return len(self._ids)

    def add(self, record: RunRecord) -> None:
        n = len(self._ids)
        if self._ids.add(record.question_id) == n and record.score is not None:
            self.scored.add(record)
            self.unparsed += record.score.outcome != "answered"


def _before_answers(config: EvalConfig) -> str:
    """What takes the time before the first answer."""
    if config.engine == "ray":
        return "Ray's workers load the model"
    if config.engine == "lmms-eval":
        return "lmms-eval starts and loads the model"
    if config.backend in ("openai", "fake"):
        return "asking"
    return "loading the model" + (f" in {config.data_parallel} processes" if config.data_parallel > 1 else "")
