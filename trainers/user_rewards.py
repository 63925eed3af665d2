"""Rewards of a user's own: functions of a question and a completion, from a file, called in a process of their own.

In a process, because a function that never returns, a regular expression that backtracks for ever among them, can be
ended in no other way. A function is `f(question, completion) -> float`: a seedbench_r1.types.Question, and the text
with what the prompt had opened.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from seedbench_r1.errors import ConfigError, one_line
from seedbench_r1.media.loader import start_worker
from seedbench_r1.questions import file_sha256
from seedbench_r1.types import Question

TIME_LIMIT_S = 10.0  # of one call
LOAD_LIMIT_S = 120.0  # of importing the file, which may import other packages
LONGEST_SHOWN = 300  # characters of a completion in an error
_LONG_WORDS = 4000  # of the very long trial completion


_Outcome = tuple[str | None, object]  # what went wrong, or None; and the result


@dataclass(frozen=True, slots=True)
class RewardSpec:
    """One --reward."""

    path: Path
    function: str
    weight: float

    @property
    def name(self) -> str:
        """In metrics and messages."""
        return self.function


class RewardFailed(Exception):
    """A function did not give a number; the message says what it did."""


def parse_reward(text: str) -> RewardSpec:
    """ "file.py:function" or "file.py:function:0.5". Raises ConfigError for anything else."""
    where, _, last = text.rpartition(":")
    weight = 1.0
    if where.rpartition(":")[0]:
        try:
            weight, (where, _, last) = float(last), where.rpartition(":")
        except ValueError:
            raise ConfigError(f"--reward {text!r}: the weight {last!r} is no number.") from None
    if not where or not last.isidentifier():
        raise ConfigError(f"--reward {text!r} is not understood. Give file.py:function or file.py:function:weight.")
    if not math.isfinite(weight) or weight == 0:
        raise ConfigError(f"--reward {text!r}: the weight is {weight:g}, expected a finite number other than 0.")
    return RewardSpec(Path(where), last, weight)


def parse_rewards(texts: Sequence[str]) -> tuple[RewardSpec, ...]:
    """Every --reward. Raises ConfigError as parse_reward, and for two functions of one name."""
    specs = tuple(map(parse_reward, texts))
    names = [spec.name for spec in specs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"--reward: two functions are called {twice!r}, and metrics have them by name.")
    if lost := next((spec.path for spec in specs if not spec.path.is_file()), None):
        raise ConfigError(f"--reward: there is no file {lost}. Fix: the path of a Python file, from this folder.")
    return specs


def reward_identity(specs: Sequence[RewardSpec]) -> list[object]:
    """What a continuation must share: names, weights and the files' sha256."""
    return [[spec.name, spec.weight, file_sha256(spec.path)] for spec in specs]


class UserRewards:
    """The functions, loaded in their process. A context manager.

    Raises ConfigError if a file cannot be imported or has no such function.
    """

    def __init__(self, specs: Sequence[RewardSpec]) -> None:
        self.specs = tuple(specs)
        # Spawned: a forked process would share what the training has opened on its GPU.
        self._pool = ProcessPool(
            max_workers=1, context=get_context("spawn"), initializer=start_worker, initargs=(os.getpid(),)
        )

    def __enter__(self) -> UserRewards:
        _ = self._pool.active  # started by this thread, with which it ends
        try:
            for spec in self.specs:
                self._load(spec)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process. Safe to call twice."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    def value(self, spec: RewardSpec, question: Question, completion: str) -> float:
        """What the function gives. Raises RewardFailed if that is no finite number within TIME_LIMIT_S."""
        place = (str(spec.path.resolve()), spec.function)
        said, value = self._run(_call, (*place, question, completion), TIME_LIMIT_S)
        if said is not None:
            raise RewardFailed(said)
        if isinstance(value, float) and math.isfinite(value):
            return value
        raise RewardFailed(f"returned {value}, expected a finite number")

    def _load(self, spec: RewardSpec) -> None:
        said, _ = self._run(_function, (str(spec.path.resolve()), spec.function), LOAD_LIMIT_S)
        if said is not None:
            raise ConfigError(f"--reward {spec.path}:{spec.function}: {said}. Nothing was trained.")

    def _run(self, job: Callable[..., object], arguments: tuple[object, ...], limit: float) -> _Outcome:
        try:
            result: _Outcome = self._pool.schedule(_guarded, args=(job, arguments), timeout=limit).result()
        except FutureTimeoutError:
            return f"took longer than {limit:g} seconds", None
        except ProcessExpired as error:
            return f"ended its process (exit code {error.exitcode})", None
        except BrokenProcessPool as error:
            raise ConfigError(
                "The process of --reward's functions does not stay alive. Fix: free memory; or, if a script called "
                'train(), let it do so below `if __name__ == "__main__":`'
            ) from error
        return result


def trial_completions(question: Question) -> dict[str, str]:
    """Five completions of a question on which a function is tried before a model is loaded, by what they are."""
    wrong = {"choice": (question.letters * 2)[question.letters.find(question.gold) + 1 :][:1]}
    wrong |= {"numerical": "-987654.5", "regression": "-987654.5"}
    said = "<think>{}</think><answer>{}</answer>"
    return {
        "good": said.format("so it is", question.gold),
        "wrong": said.format("so it is not", wrong.get(question.kind, "nothing of the kind")),
        "empty": "",
        "without tags": question.gold_text,
        "very long": said.format("word " * _LONG_WORDS, question.gold),
    }


def try_rewards(specs: Sequence[RewardSpec], question: Question) -> dict[str, dict[str, float]]:
    """Each function on the trial completions: its name -> the completion's -> the value.

    Raises ConfigError naming the function and the completion on which it fails.
    """
    found: dict[str, dict[str, float]] = {}
    if not specs:
        return found
    with UserRewards(specs) as rewards:
        for spec in specs:
            found[spec.name] = {}
            for label, completion in trial_completions(question).items():
                try:
                    found[spec.name][label] = rewards.value(spec, question, completion)
                except RewardFailed as error:
                    raise ConfigError(
                        f"--reward {spec.path}:{spec.function} {error}, tried on a completion that is {label} "
                        f"({_shown(completion)}) of {question.question_id}. Nothing was trained. Fix: the function "
                        f"must give a number for any text."
                    ) from error
    return found


def failure_in_training(spec: RewardSpec, question: Question, completion: str, error: RewardFailed) -> ConfigError:
    """The error for a function that fails while a model is trained."""
    return ConfigError(
        f"The reward {spec.path}:{spec.function} {error}. Question {question.question_id}, completion "
        f"{_shown(completion)}. The last checkpoint is complete. Fix: --reward-failures zero continues from it, and "
        f"such completions get 0; or mend the function and train with another --out."
    )


def _shown(completion: str) -> str:
    return repr(completion if len(completion) <= LONGEST_SHOWN else completion[:LONGEST_SHOWN] + " ...")


# Below: run in the functions' process.

_loaded: dict[str, Mapping[str, object]] = {}  # path -> the module's names


def _guarded(job: Callable[..., object], arguments: tuple[object, ...]) -> _Outcome:
    try:
        # What it prints is no result of the command's.
        with contextlib.redirect_stdout(sys.stderr):
            return None, job(*arguments)
    except Exception as error:  # noqa: BLE001  # a user's code may raise anything, and not all of it can be sent
        return f"raised {type(error).__name__}: {one_line(error)}", None


def _function(path: str, name: str) -> None:
    _names(path, name)


def _call(path: str, name: str, question: Question, completion: str) -> object:
    function: Any = _names(path, name)[name]
    value = function(question, completion)
    # Numbers of numpy and torch are numbers; texts and None are none.
    return float(value) if hasattr(value, "__float__") else repr(value)[:LONGEST_SHOWN]


def _names(path: str, name: str) -> Mapping[str, object]:
    if path not in _loaded:
        spec = importlib.util.spec_from_file_location(f"user_rewards_{len(_loaded)}", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        _loaded[path] = vars(module)
    if not callable(_loaded[path].get(name)):
        raise AttributeError(f"the file has no function {name!r}")
    return _loaded[path]
