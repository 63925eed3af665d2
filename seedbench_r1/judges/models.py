"""Judges that are language models: any OpenAI-compatible server, or a local checkpoint through our own backends."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace

from seedbench_r1.api.client import ChatClient, RequestFailed, json_reply
from seedbench_r1.api.cost_limit import CostLimit
from seedbench_r1.api.replies import Reply, refuses_format
from seedbench_r1.api.worker_pool import in_parallel
from seedbench_r1.backends.base import Backend
from seedbench_r1.errors import ConfigError, JudgeUnavailable
from seedbench_r1.judges.run import JudgeCase, majority
from seedbench_r1.judges.wording import JudgeSettings, UnreadableVerdict, build_judge_prompt, read_verdict, schema
from seedbench_r1.runs.verdicts import FAILED
from seedbench_r1.types import Failure, Generation, Request, SamplingConfig, Verdict

TRIES = 3  # for a readable verdict; then the verdict is missing
GIVE_UP_AFTER = 3  # failures in a row that no request is to blame for: the server is gone
PROBE, PROBE_TOKENS = "Reply with the word ok.", 64
# OpenAI's refusal of a request whose limit was used up by hidden reasoning.
CUT_REFUSAL = "output limit was reached"


class CutVerdict(UnreadableVerdict):
    """A reply that ended at its limit: asked again, it would be cut again."""

    def __init__(self, max_tokens: int) -> None:
        super().__init__(f"cut at its limit of {max_tokens} tokens; give it more: --judge-max-tokens {4 * max_tokens}")


@dataclass(frozen=True, slots=True)
class _Judged:
    """What became of one case."""

    question_id: str
    verdict: Verdict
    unreachable: bool  # it failed for a reason that concerns every request


class ApiJudge:
    """A model behind an OpenAI-compatible server."""

    def __init__(
        self,
        client: ChatClient,
        model: str,
        settings: JudgeSettings,
        *,
        concurrency: int = 8,
        cost_limit: CostLimit | None = None,
    ) -> None:
        self.settings = settings
        self._client = client
        self._model = model
        self._concurrency = concurrency
        self._cost_limit = cost_limit

    @property
    def judge_id(self) -> str:
        """Final once the server was probed."""
        return self.settings.judge_id

    def probe(self) -> bool:
        """One small request of the kind of all others. True if the server takes no schema, so that none is sent.

        Raises:
            JudgeUnavailable: the server does not answer, or refuses what it is asked.
        """
        try:
            try:
                self._ask(PROBE, seed=0, max_tokens=PROBE_TOKENS)
            except RequestFailed as error:
                if error.status is None or not refuses_format(str(error)):
                    raise
                # Here, before the first verdict: the judge id must not change within a run.
                self.settings = replace(self.settings, schema_sent=False)
                self._ask(PROBE, seed=0, max_tokens=PROBE_TOKENS)
        except CutVerdict:
            pass  # it answers; what it was cut in is not read
        except (RequestFailed, ConfigError) as error:
            raise JudgeUnavailable(
                f"Judge {self.settings.name} does not answer: {str(error).rstrip('.')}. {_temperature_hint(error)}"
                f"Evaluation is safe; only consistency is pending."
            ) from error
        return not self.settings.schema_sent

    def verdicts(self, cases: Iterable[JudgeCase]) -> Iterator[tuple[str, Verdict]]:
        """At most `concurrency` cases in flight. Raises JudgeUnavailable if the server is gone."""
        waiting: Iterator[JudgeCase] = iter(cases)
        if self._cost_limit is not None:
            waiting = self._cost_limit.affordable(
                waiting, completions=lambda _: self.settings.votes, max_tokens=self.settings.max_tokens
            )
        # Answers that fail for their own reason neither raise nor reset the count.
        lost = 0  # failures in a row that no request is to blame for; counted here, in one thread
        for judged in in_parallel(waiting, self._judge, self._concurrency):
            if judged.unreachable:
                lost += 1
            elif judged.verdict.consistent is not None:
                lost = 0
            if lost >= GIVE_UP_AFTER:
                raise JudgeUnavailable(
                    f"Judge {self.settings.name} is gone: {judged.verdict.reason}. Verdicts so far are saved; run "
                    f"judge again."
                )
            yield judged.question_id, judged.verdict

    def close(self) -> None:
        """Cancel what is in flight."""
        if self._cost_limit is not None:
            self._cost_limit.close()
        self._client.close()

    def _judge(self, case: JudgeCase) -> Iterator[_Judged]:
        """One case, in a thread of the pool."""
        votes: list[bool] = []
        reasons: list[str] = []
        for vote in range(self.settings.votes):
            try:
                consistent, reason = self._vote(case, vote)
            except ConfigError as error:
                raise JudgeUnavailable(f"{error} Evaluation is safe; only consistency is pending.") from error
            except (RequestFailed, UnreadableVerdict) as error:
                # One lost vote loses the verdict: a majority of the others would be another judge.
                self._settle_unused(self.settings.votes - vote - 1)
                failed = Verdict(None, f"{FAILED}{error}", self.judge_id)
                yield _Judged(case.question_id, failed, unreachable=getattr(error, "for_all", False))
                return
            votes.append(consistent)
            reasons.append(reason)
        agreed = majority(votes)
        # A reason of the winning side, not of the first vote.
        reason = next((r for r, vote in zip(reasons, votes, strict=True) if vote == agreed), "the votes are tied")
        verdict = Verdict(agreed, reason, self.judge_id, tuple(votes) if len(votes) > 1 else ())
        yield _Judged(case.question_id, verdict, unreachable=False)

    def _settle_unused(self, votes: int) -> None:
        """Money was kept back for votes that will not be asked for."""
        if self._cost_limit is not None:
            for _ in range(votes):
                self._cost_limit.settle(None)

    def _ask(self, text: str, *, seed: int, max_tokens: int, letters: str = "ABCD") -> Reply:
        """Raises RequestFailed, CutVerdict, or ConfigError like the client."""
        try:
            return self._client.complete(
                [{"role": "user", "content": text}],
                model=self._model,
                max_tokens=max_tokens,
                temperature=self.settings.temperature,
                seed=seed,
                extra=json_reply(schema(self.settings.version, letters)) if self.settings.schema_sent else None,
            )
        except RequestFailed as error:
            if CUT_REFUSAL in str(error):
                raise CutVerdict(max_tokens) from error
            raise

    def _vote(self, case: JudgeCase, vote: int) -> tuple[bool, str]:
        """One vote, asked for again while it cannot be read. Raises RequestFailed or UnreadableVerdict."""
        prompt = build_judge_prompt(case, self.settings.prompt)
        # Unreadable replies cost as much as others; all tries of a vote are settled as one.
        usage: tuple[int, int] | None = None
        try:
            for attempt in range(TRIES):
                # The same seed would give the same unreadable reply again.
                seed = vote * TRIES + attempt
                reply = self._ask(prompt, seed=seed, max_tokens=self.settings.max_tokens, letters=case.letters)
                if self._cost_limit is not None:
                    used, counts = usage or (0, 0), self._cost_limit.counted(reply.usage, self._client.base_url)
                    usage = (used[0] + counts[0], used[1] + counts[1])
                try:
                    # Not reply.text: thoughts in a field of their own are no part of the verdict.
                    return read_verdict(reply.content, case, self.settings.version)
                except UnreadableVerdict as error:
                    if reply.finish_reason == "length":
                        raise CutVerdict(self.settings.max_tokens) from error
                    problem = error
            raise problem
        finally:
            if self._cost_limit is not None:
                self._cost_limit.settle(usage)


_Round = Generator[tuple[str, Verdict], None, list[tuple[JudgeCase, str]]]


class LocalJudge:
    """A text model through one of our own backends, greedy; an unreadable reply is asked for again while sampling."""

    def __init__(self, backend: Backend, settings: JudgeSettings) -> None:
        self.judge_id = settings.judge_id
        self._backend = backend
        self._settings = settings

    def verdicts(self, cases: Iterable[JudgeCase]) -> Iterator[tuple[str, Verdict]]:
        """As the backend finishes them; unreadable ones are tried again at the end."""
        # Greedy first: only what cannot be read is drawn at random, by a seed of its own.
        left = yield from self._round(cases, SamplingConfig(0.0, 1.0, max_new_tokens=self._settings.max_tokens))
        for attempt in range(1, TRIES):
            sampling = SamplingConfig(0.7, 0.95, max_new_tokens=self._settings.max_tokens, seed=attempt)
            left = yield from self._round([case for case, _ in left], sampling)
        for case, problem in left:
            yield case.question_id, Verdict(None, f"{FAILED}{problem}", self.judge_id)

    def close(self) -> None:
        """Let the model go."""
        self._backend.close()

    def _round(self, cases: Iterable[JudgeCase], sampling: SamplingConfig) -> _Round:
        """Verdicts that can be read are yielded; returns (case, problem) for the others."""
        # Filled while the backend pulls, since cases are a stream.
        by_id: dict[str, JudgeCase] = {}
        left: list[tuple[JudgeCase, str]] = []

        def requests() -> Iterator[Request]:
            for case in cases:
                by_id[case.question_id] = case
                yield text_request(case.question_id, build_judge_prompt(case, self._settings.prompt))

        for question_id, result in self._backend.generate(requests(), sampling):
            case = by_id[question_id]
            try:
                consistent, reason = read_verdict(_text(result), case, self._settings.version)
            except UnreadableVerdict as error:
                if isinstance(result, Generation) and result.finish_reason == "length":
                    cut = CutVerdict(self._settings.max_tokens)
                    yield question_id, Verdict(None, f"{FAILED}{cut}", self.judge_id)
                else:
                    left.append((case, str(error)))
                continue
            yield question_id, Verdict(consistent, reason, self.judge_id)
        return left


def text_request(question_id: str, text: str) -> Request:
    """A request without media."""
    message = {"role": "user", "content": [{"type": "text", "text": text}]}
    return Request(question_id, (message,), None, (), None, None, None)


def _text(result: Generation | Failure) -> str:
    if isinstance(result, Failure):
        raise UnreadableVerdict(result.message)
    return result.text


def _temperature_hint(error: Exception) -> str:
    # As OpenAI's reasoning models refuse any temperature but 1. Not switched off by itself: it changes verdicts.
    if "temperature" not in str(error):
        return ""
    return "Fix: --judge-temperature none, which sends none (another judge id). "
