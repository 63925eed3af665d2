"""The miniature's own judge: it reads off what the reasoning concludes, so that consistency is known, not judged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from seedbench_r1.demo.traces import concluded_action
from seedbench_r1.judges.run import JudgeCase
from seedbench_r1.types import LETTERS, Verdict


class ExactJudge:
    """Consistent means: the reasoning concludes the action that is the answer.

    Reasoning that concludes nothing, or an action that is not among the options, does not support its answer.
    """

    judge_id = "miniature/v1"

    def verdicts(self, cases: Iterable[JudgeCase]) -> Iterator[tuple[str, Verdict]]:
        """One verdict a case, in order."""
        for case in cases:
            concluded = concluded_action(case.reasoning)
            answer = case.options[LETTERS.index(case.answer)]
            reason = f"the reasoning concludes {concluded or 'nothing'!r}; the answer is {answer!r}"
            yield case.question_id, Verdict(concluded == answer, reason, self.judge_id)

    def close(self) -> None:
        """Nothing is held."""
