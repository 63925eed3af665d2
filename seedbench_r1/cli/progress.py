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
from seedbench_r1.files import utc_now
from seedbench_r1.runs.answers import without_texts
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
        self._records: dict[str, RunRecord] = {}  # of the plan's questions, earlier calls' too
        self._pending: set[str] = set()  # of this call and shard
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

    def opened(self, records: dict[str, RunRecord], pending: list[Question]) -> None:
        """Begin to show: the run is open, so that nothing is said of one that is refused."""
        # The bars begin where the last call ended.
        wanted = {question.question_id for question in self._plan.questions}
        self._records = {i: record for i, record in records.items() if i in wanted}
        self._pending = {question.question_id for question in pending}
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
            self._records[record.question_id] = without_texts(record)
            self._pending.discard(record.question_id)
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
        done = sum(record.answered for record in self._records.values())
        failed = len(self._records) - done
        if self._records:
            part = f", {len(self._pending):,} asked in this shard" if config.shard is not None else ""
            again = f", {failed} errors will be retried" if failed and config.retry_errors else ""
            lines.append(f"resuming {self._plan.path}: {done:,} of {len(self._plan.questions):,} done{again}{part}")
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
        rates, left = self._speed.rates(), self._speed.seconds_left(time.monotonic(), len(self._pending))
        speed = "eta=unknown" if rates is None or left is None else f"qps={rates[0]:.2f} eta={left:.0f}s"
        cost = "unknown" if self._cost is None else f"{self._cost:.4f}"
        paid = f" cost={cost}" if self._prices else ""
        return f"{utc_now()} eval {level} {done}/{total} acc={accuracy:.3f} err={errors} {speed}{paid}"

    def _status(self) -> str:
        """Speed and time left, or what happens before they are known."""
        rates, left = self._speed.rates(), self._speed.seconds_left(time.monotonic(), len(self._pending))
        if rates is not None and left is not None:
            clock = time.strftime("%H:%M:%S", time.gmtime(left)) if left < DAY_S else f"{left / DAY_S:.1f} days"
            return console.dot().join((f"{rates[0]:.2f} q/s ", f" {rates[1]:.0f} tok/s ", f" ETA {clock}"))
        if not self._pending:
            return "nothing left to ask"
        if self._speed.begun:
            return "first answers, ETA unknown yet"
        return "waiting for the first answer" if self._new else f"{_before_answers(self._plan.config)}, no answer yet"

    def _picture(self) -> RenderableType:
        with self._guard:
            levels = list(dict.fromkeys(question.split for question in self._plan.questions))
            rows = [self._bar(level) for level in levels]
            status = self._status()
            done = sum(record.answered for record in self._records.values())
            errors = len(self._records) - done
        share = f"{100 * done / max(1, len(self._plan.questions)):.0f} %"
        status = f" {share} {console.dot()} {status} {console.dot()} errors {errors}"
        if self._prices:
            limit = self._plan.config.max_cost
            cost = "unknown" if self._cost is None else f"{self._cost:.2f}"
            status += f" {console.dot()} cost {cost}" + (f" of {limit:g}" if limit is not None else "")
        return Group(*rows, Text(status))

    def _bar(self, level: str) -> Text:
        from seedbench_r1.cli.results import share_of

        done, total, records = self._counts(level)
        filled = round(BAR_WIDTH * done / max(1, total))
        bar = console.glyph("━", "#") * filled + console.glyph("╌", "-") * (BAR_WIDTH - filled)
        # A Text is drawn as it is.
        text = f" {printable(level):<6} {bar} {done:>5}/{total:<5}"
        if not done:
            return Text(text + "  waiting")
        unparsed = sum(r.score.outcome != "answered" for r in records if r.score)
        if self._plan.suite.name != "seedbench-r1":  # credits in between have no such interval
            credit = sum(record.score.credit for record in records if record.score)
            return Text(f"{text}  running score {100 * credit / done:.1f}  unparsed {unparsed}")
        share = share_of(records)
        bounds = f"[{100 * share.lo:.1f}, {100 * share.hi:.1f}]"
        return Text(f"{text}  running acc {100 * share.k / share.n:.1f} {bounds}  unparsed {unparsed}")


def _before_answers(config: EvalConfig) -> str:
    """What takes the time before the first answer."""
    if config.engine == "ray":
        return "Ray's workers load the model"
    if config.engine == "lmms-eval":
        return "lmms-eval starts and loads the model"
    if config.backend in ("openai", "fake"):
        return "asking"
    return "loading the model" + (f" in {config.data_parallel} processes" if config.data_parallel > 1 else "")
