"""What boards of different suites do not share: names and order of the columns, and whose printed rows stand below."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from seedbench_r1.suites.transfer import BENCHMARKS
from seedbench_r1.types import LEVELS

TOY = "miniature"  # the data_source of rows of a toy world: its boards say so, and no paper's row stands below them


@dataclass(frozen=True, slots=True)
class BoardSuite:
    """A suite that has boards. Runs of different suites never share one."""

    name: str
    called: str  # "not to be mixed with ... results"
    title: str  # over the page; "" for the names of the files
    known: tuple[str, ...] = ()  # splits in the order of the columns; others follow in the order of their file
    names: Mapping[str, str] = field(default_factory=dict)  # split -> its column's name, where it has another
    published: str = ""  # the file of the papers' rows; "" if no paper prints any
    splits_are: str = ""  # a sentence for who does not know them
    links: Mapping[str, str] = field(default_factory=dict)  # words -> address

    @property
    def has_levels(self) -> bool:
        """Whether its splits are L1 to L3, steps of one shift, the last divided into domains."""
        return self.known == LEVELS

    def column(self, split: str) -> str:
        """What a split is called in tables."""
        return self.names.get(split, split)


SUITES = {
    suite.name: suite
    for suite in (
        BoardSuite(
            "seedbench-r1",
            "SEED-Bench-R1",
            "SEED-Bench-R1",
            LEVELS,
            published="published.csv",
            splits_are="The next action of four, after a clip. L1: as in training. L2: unseen environments. L3: unseen "
            "environments and tasks.",
            links={
                "SEED-Bench-R1": "https://arxiv.org/abs/2503.24376",
                "GRPO-CARE": "https://arxiv.org/abs/2506.16141",
                "data": "https://huggingface.co/datasets/TencentARC/SEED-Bench-R1",
            },
        ),
        BoardSuite(
            "transfer",
            "general video benchmarks'",
            "General video benchmarks",
            tuple(BENCHMARKS.values()),
            BENCHMARKS,
            "published_transfer.csv",
            "Six benchmarks that no training here was for, as in GRPO-CARE's Table 4.",
            {"GRPO-CARE": "https://arxiv.org/abs/2506.16141"},
        ),
        BoardSuite("own", "own questions'", ""),
    )
}
