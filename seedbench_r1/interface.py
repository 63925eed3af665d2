"""The Python interface: what the commands do, as functions that return objects. docs/python.md shows it at work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seedbench_r1.errors import ConfigError
from seedbench_r1.options import typed
from seedbench_r1.runs.directory import Run, load_run

if TYPE_CHECKING:
    import pandas as pd

    from leaderboards.board import Board
    from seedbench_r1.engines.base import Plan
    from seedbench_r1.judges.config import JudgeConfig
    from seedbench_r1.judges.opening import Announce
    from seedbench_r1.judges.run import Judge
    from seedbench_r1.types import RunRecord, Verdict
    from trainers.loop import TrainResult

Setting = str | int | float | bool | Path | Iterable[str] | None


def evaluate(
    *,
    stop: threading.Event | None = None,
    observe: Callable[[RunRecord], None] | None = None,
    config_file: str | Path | None = None,
    **settings: Setting,
) -> Run:
    """Evaluate a checkpoint, or continue: the same settings continue an interrupted run, as the command does.

    Args:
        stop: when set, nothing new is begun; what is in flight is finished and saved.
        observe: called with every record right after it was written, maybe from another thread.
        config_file: TOML with the same names; by default ./seedbench-r1.toml, if any.
        settings: the options of `seedbench-r1 eval` with underscores (docs/cli.md); paths may be texts.

    Returns:
        The run as it is on disk. It is incomplete if questions failed: see Run.summary().

    Raises:
        ConfigError, DataError, ResourceError: as the command (docs/cli.md, exit codes 3, 4 and 7).
    """
    # Imported when called: torch takes seconds, and `import seedbench_r1` should not.
    from seedbench_r1.engines.plan import open_engine
    from seedbench_r1.engines.run import run_plan

    planned = _planned(settings, config_file, "seedbench_r1.evaluate")
    if planned.config.sampled_seeds:
        raise ConfigError("evaluate returns one run, of one answer to each question. Fix: evaluate_samples.")
    # Entered only now: everything that can be refused was refused without a model.
    with open_engine(planned.config) as engine:
        run_plan(planned, engine, stop=stop, observe=observe or (lambda record: None))
    # Read back rather than kept in memory: what is returned is what another machine would read.
    return load_run(planned.path)


def evaluate_samples(
    *, stop: threading.Event | None = None, config_file: str | Path | None = None, **settings: Setting
) -> dict[int, Run]:
    """Several samples of each question, `samples=8` or `seeds="0,1,2"`: seed -> its run, as evaluate would return it.

    A question is decoded and its prompt computed once for all of them. Their folder (the parent of each run's path) is
    what `leaderboard` takes as one run, whose accuracy is avg@K. Arguments and errors as evaluate's.

    Raises:
        ConfigError: also without `samples` or `seeds`.
    """
    from seedbench_r1.engines.plan import open_engine
    from seedbench_r1.engines.run import run_samples
    from seedbench_r1.runs.samples import sample_folder

    planned = _planned(settings, config_file, "seedbench_r1.evaluate_samples")
    seeds = planned.config.sampled_seeds
    if not seeds:
        raise ConfigError("How many samples is not said. Fix: samples=8, or seeds='0,1,2'.")
    with open_engine(planned.config) as engine:
        run_samples(planned, engine, stop=stop)
    return {seed: load_run(sample_folder(planned.path, seed)) for seed in seeds}


def _planned(settings: dict[str, Setting], config_file: str | Path | None, command: str) -> Plan:
    from seedbench_r1.config import TABLE
    from seedbench_r1.engines.plan import plan
    from seedbench_r1.suites import resolve

    config = resolve(typed(settings, TABLE), config_file=None if config_file is None else Path(config_file))
    return plan(config, command=command)


def load(path: str | Path) -> Run:
    """Read a run directory. Raises DataError if it is not one, or is damaged."""
    return load_run(Path(path))


def judge(
    run: Run, name: str = "rules", *, stop: threading.Event | None = None, **settings: Setting
) -> dict[str, Verdict]:
    """Judge the answers that this judge has not judged yet; question_id -> verdict, earlier ones included.

    Args:
        run: from evaluate or load.
        name: "rules", "openai:MODEL", "local:PATH" or "miniature".
        stop: when set, nothing new is begun; verdicts in flight are saved.
        settings: the other options of `seedbench-r1 judge` with underscores (docs/cli.md).

    Raises:
        ConfigError, JudgeUnavailable: as the command. Nothing falls back to another judge.
    """
    from seedbench_r1.judges.config import TABLE, resolve_judge_config
    from seedbench_r1.judges.run import judge_run

    # `judge` is the name of this function, so the setting comes as `name`.
    config = resolve_judge_config({**typed(settings, TABLE), "judge": name})
    opened = open_judge(config)
    try:
        return judge_run(check_judgeable(run), opened, limit=config.limit, stop=stop)
    finally:
        opened.close()


def check_judgeable(run: Run) -> Run:
    """The run. Raises ConfigError if it has no question with options."""
    # Judges say which of the options the reasoning leads to.
    if all(question.kind != "choice" for question in run.questions.values()):
        raise ConfigError(f"{run.path} has no question with options; judges say which of them the reasoning leads to.")
    return run


def open_judge(config: JudgeConfig, announce: Announce = lambda settings: None) -> Judge:
    """The judge of the settings: see judges.opening.open_judge. The miniature's own is known here only."""
    if config.kind == "miniature":
        # The demo stands above the judges, which may not import it.
        from seedbench_r1.demo.exact_judge import ExactJudge

        return ExactJudge()
    from seedbench_r1.judges.opening import open_judge as open_other

    return open_other(config, announce)


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """Several runs compared."""

    board: Board

    def save(self, path: str | Path) -> Path:
        """Write .html (the page), .csv (a row a run), .md or .tex, by the path's ending. Returns the path.

        Raises:
            ConfigError: another ending. ResourceError: the disk is full or cannot be written.
        """
        from leaderboards.draw.csv import write_wide_csv
        from leaderboards.draw.latex import write_latex
        from leaderboards.draw.markdown import write_markdown
        from leaderboards.draw.page import write_html

        target = Path(path)
        writers: dict[str, Callable[[Board, Path], object]] = {
            ".html": write_html,
            ".csv": write_wide_csv,
            ".md": write_markdown,
            ".tex": write_latex,
        }
        if target.suffix not in writers:
            raise ConfigError(f"{target} ends in {target.suffix!r}. There are: {', '.join(writers)}.")
        writers[target.suffix](self.board, target)
        return target

    def to_dataframe(self) -> pd.DataFrame:
        """A row a run, with the columns of leaderboard.csv (docs/leaderboard.md) as texts."""
        import pandas as pd

        from leaderboards.draw.csv import further_splits, wide_fields

        board = self.board
        return pd.DataFrame([wide_fields(row, board.baseline, further_splits(board)) for row in board.rows])


def leaderboard(
    runs: Iterable[Run | str | Path], *, baseline: Run | str | None = None, judge: str | None = None
) -> Leaderboard:
    """Compare runs: intervals, paired tests, ranks.

    Args:
        runs: runs or their directories.
        baseline: a run, or its name, that the others are compared with.
        judge: the id of the judge whose verdicts count; by default the one with most verdicts.

    Raises:
        DataError: no run can be used, with the reasons; others are in board.left_out.
        ConfigError: there is no such baseline or judge.
    """
    from leaderboards.board import build_board

    paths = [run.path if isinstance(run, Run) else Path(run) for run in runs]
    name = str(baseline.path) if isinstance(baseline, Run) else baseline
    # Published numbers are the command's; here only runs are compared.
    return Leaderboard(build_board(paths, baseline=name, judge=judge, include_published=False))


def train(
    *, stop: threading.Event | None = None, config_file: str | Path | None = None, **settings: Setting
) -> TrainResult:
    """Train a checkpoint, or continue: the same settings continue, as the command does.

    Args:
        stop: when set, the current step is finished and saved.
        config_file: TOML with the same names under [train]; by default ./seedbench-r1.toml, if any.
        settings: the options of `seedbench-r1 train` with underscores (docs/cli.md): preset or algo, model, data, out.

    Raises:
        ConfigError, DataError, ResourceError: as the command (docs/cli.md, exit codes 3, 4 and 7).
    """
    from trainers.config import TABLE
    from trainers.loop import train as train_plan
    from trainers.plan import plan_training
    from trainers.processes import Processes
    from trainers.resolve import resolve_train_config

    config = resolve_train_config(
        typed(settings, TABLE), config_file=None if config_file is None else Path(config_file)
    )
    # Under torchrun each process calls this; alone it is a world of one.
    processes = Processes(config.device)
    return train_plan(plan_training(config, world_size=processes.world_size, node_size=processes.node_size), stop=stop)
