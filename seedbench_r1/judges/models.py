"""Judges that are language models: any OpenAI-compatible server, or a local checkpoint through our own backends."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import re
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

from seedbench_r1.api.client import ChatClient, RequestFailed, json_reply
from seedbench_r1.api.cost_limit import CostLimit
from seedbench_r1.api.worker_pool import in_parallel
from seedbench_r1.backends.base import Backend
from seedbench_r1.errors import ConfigError, JudgeUnavailable
from seedbench_r1.judges.run import JudgeCase, majority
from seedbench_r1.runs.verdicts import FAILED
from seedbench_r1.typed_json import parse_json
from seedbench_r1.types import LETTERS, Failure, Generation, Request, SamplingConfig, Verdict

PROMPT_VERSION = 1
TRIES = 3  # for a readable verdict; then the verdict is missing
REASON_CHARACTERS = 4000  # of a reason that are kept: more than the limit of tokens leaves room for
GIVE_UP_AFTER = 3  # failures in a row that no request is to blame for: the server is gone

# "supports" before "consistent": the model names the option first and only then compares it with the answer.
SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        "supports": {"type": "string", "enum": [*LETTERS, "none"]},
        "consistent": {"type": "boolean"},
        "reason": {"type": "string"},
    },
    "required": ["supports", "consistent", "reason"],
    "additionalProperties": False,
}

_PLACEHOLDER = re.compile(r"\{(question|options|reasoning|answer)\}")
# Models wrap JSON in a Markdown block whatever they are asked.
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)


class UnreadableVerdict(ValueError):
    """A reply that is not exactly what was asked for."""


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """What changes verdicts, and so is part of the judge id."""

    name: str  # "openai:gpt-x" or "local:Qwen2.5-7B-Instruct"
    prompt: str
    votes: int = 1
    temperature: float = 0.0  # of a single vote; several votes need more than 0 to differ
    max_tokens: int = 300
    server: str | None = None  # base URL, for a model name may mean anything behind another server
    model: str | None = None  # hash of a local judge's files, template and tokeniser among them

    @property
    def judge_id(self) -> str:
        """name / prompt version - hash of prompt, votes, temperature, limit, server and a local judge's files."""
        # A list, so that no two settings can run together into the same text.
        known = [self.prompt, self.votes, self.temperature, self.max_tokens, self.server]
        parts = json.dumps(known if self.model is None else [*known, self.model])
        return f"{self.name}/v{PROMPT_VERSION}-{hashlib.sha256(parts.encode()).hexdigest()[:8]}"


def default_prompt() -> str:
    """Our own wording, as it stands in the package."""
    return importlib.resources.files("seedbench_r1.judges").joinpath("judge_prompt_v1.txt").read_text(encoding="utf-8")


def prompt_sha(prompt: str) -> str:
    """First 12 hex digits of the sha256 of the wording."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:12]


def check_prompt(prompt: str) -> str:
    """Return the prompt. Raises ConfigError if one of its four placeholders is absent."""
    for name in ("question", "options", "reasoning", "answer"):
        if f"{{{name}}}" not in prompt:
            raise ConfigError(f"The judge's prompt has no {{{name}}}. Put it where the text should appear.")
    return prompt


def build_judge_prompt(case: JudgeCase, prompt: str) -> str:
    """The wording filled in. Texts are inserted once and never searched for placeholders."""
    options = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, case.options, strict=True))
    answer = f"{case.answer}. {case.options[LETTERS.index(case.answer)]}"
    values = {"question": case.question, "options": options, "reasoning": case.reasoning, "answer": answer}
    filled = _PLACEHOLDER.sub(lambda match: values[match.group(1)], prompt)
    # An answer may end in half of a surrogate pair, which no server and no tokenizer takes.
    return filled.encode("utf-8", "replace").decode("utf-8")


def read_verdict(text: str, case: JudgeCase) -> tuple[bool, str]:
    """(consistent, reason) of a reply. Raises UnreadableVerdict unless it is exactly the object that was asked for.

    A reply whose `consistent` does not follow from its `supports` and the answer contradicts itself: unreadable.
    """
    stripped = text.strip()
    if "</think>" in stripped:  # a reasoning model's own thoughts
        stripped = stripped.rpartition("</think>")[2].strip()
    fenced = _FENCE.fullmatch(stripped)
    try:
        value = parse_json(fenced.group(1) if fenced else stripped)
    except ValueError as error:
        raise UnreadableVerdict("not JSON") from error
    if not isinstance(value, dict) or set(value) != {"supports", "consistent", "reason"}:
        raise UnreadableVerdict("not an object with supports, consistent and reason")
    supports, consistent, reason = value["supports"], value["consistent"], value["reason"]
    if supports not in (*LETTERS, "none") or not isinstance(consistent, bool) or not isinstance(reason, str):
        raise UnreadableVerdict("a value of the wrong kind")
    # One of the two must be wrong, and nothing says which: a vote for neither.
    if consistent != (supports == case.answer):
        raise UnreadableVerdict(f"supports {supports!r} and consistent {consistent} contradict each other")
    return consistent, f"{supports}: {reason[:REASON_CHARACTERS]}"


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
        self.judge_id = settings.judge_id
        self._client = client
        self._model = model
        self._settings = settings
        self._concurrency = concurrency
        self._cost_limit = cost_limit

    def probe(self) -> None:
        """One tiny request before thousands. Raises JudgeUnavailable."""
        messages = [{"role": "user", "content": "Reply with the word ok."}]
        try:
            self._client.complete(messages, model=self._model, max_tokens=16)
        except (RequestFailed, ConfigError) as error:
            raise JudgeUnavailable(
                f"Judge {self._settings.name} does not answer: {str(error).rstrip('.')}. Evaluation is safe; only "
                f"consistency is pending."
            ) from error

    def verdicts(self, cases: Iterable[JudgeCase]) -> Iterator[tuple[str, Verdict]]:
        """At most `concurrency` cases in flight. Raises JudgeUnavailable if the server is gone."""
        waiting: Iterator[JudgeCase] = iter(cases)
        if self._cost_limit is not None:
            waiting = self._cost_limit.affordable(
                waiting, completions=self._settings.votes, max_tokens=self._settings.max_tokens
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
                    f"Judge {self._settings.name} is gone: {judged.verdict.reason}. Verdicts so far are saved; run "
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
        for vote in range(self._settings.votes):
            try:
                consistent, reason = self._vote(case, vote)
            except ConfigError as error:
                raise JudgeUnavailable(f"{error} Evaluation is safe; only consistency is pending.") from error
            except (RequestFailed, UnreadableVerdict) as error:
                # One lost vote loses the verdict: a majority of the others would be another judge.
                self._settle_unused(self._settings.votes - vote - 1)
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

    def _vote(self, case: JudgeCase, vote: int) -> tuple[bool, str]:
        """One vote, asked for again while it cannot be read. Raises RequestFailed or UnreadableVerdict."""
        messages = [{"role": "user", "content": build_judge_prompt(case, self._settings.prompt)}]
        # Unreadable replies cost as much as others; all tries of a vote are settled as one.
        usage: tuple[int, int] | None = None
        try:
            for attempt in range(TRIES):
                reply = self._client.complete(
                    messages,
                    model=self._model,
                    max_tokens=self._settings.max_tokens,
                    temperature=self._settings.temperature,
                    # The same seed would give the same unreadable reply again.
                    seed=vote * TRIES + attempt,
                    extra=json_reply(SCHEMA),
                )
                if self._cost_limit is not None:
                    used, counts = usage or (0, 0), self._cost_limit.counted(reply.usage, self._client.base_url)
                    usage = (used[0] + counts[0], used[1] + counts[1])
                try:
                    return read_verdict(reply.text, case)
                except UnreadableVerdict as error:
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
                consistent, reason = read_verdict(_text(result), case)
            except UnreadableVerdict as error:
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
