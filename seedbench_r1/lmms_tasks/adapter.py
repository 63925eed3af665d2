"""Our runner as a model of lmms-eval: `--model seedbench_r1 --model_args pretrained=PATH,backend=transformers,...`.

Questions of SEED-Bench-R1 are answered by the same run_plan as with `seedbench-r1 eval`, into the same directory, so
a run of either continues the other and the numbers agree by construction. Other benchmarks' requests go to the backend
directly (other_tasks.py).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms

from seedbench_r1.config import EVAL_TABLE, LMMS, RAY, TABLE, resolve_eval_config
from seedbench_r1.config_file import read_config_file
from seedbench_r1.engines.base import Plan
from seedbench_r1.engines.local import LocalEngine
from seedbench_r1.engines.plan import plan
from seedbench_r1.engines.run import run_plan
from seedbench_r1.errors import ConfigError, IncompleteRun
from seedbench_r1.files import JsonObject
from seedbench_r1.lmms_tasks.functions import Document, given_sampling, to_document
from seedbench_r1.lmms_tasks.other_tasks import answer_other_tasks
from seedbench_r1.runs.answers import recorded
from seedbench_r1.types import RunRecord, SamplingConfig

# The tasks say what is asked, and lmms-eval carries it out
_NOT_FOR_MODEL_ARGS = {"model", "data_root", "levels", "shard", "limit", "fresh", "suite", "engine", "data_parallel"}
OPTIONS = {row.name for row in TABLE.values() if row.option.group not in (RAY, LMMS)} - _NOT_FOR_MODEL_ARGS
OPTIONS |= EVAL_TABLE.also | {"config"}
_SHIPPED = SamplingConfig()  # the tasks' own generation_kwargs; tests/lmms compares the two


class SeedBenchR1(lmms):  # type: ignore[misc]  # lmms-eval has no types
    """`pretrained` is what `eval --model` takes; every other argument is an option of `eval` with underscores.

    Raises:
        ConfigError: an argument that is no option of `eval`.
    """

    is_simple = False

    def __init__(self, pretrained: str = "", **options: object) -> None:
        super().__init__()
        # lmms-eval adds it to every model's arguments.
        options = {name: value for name, value in options.items() if name != "max_batch_size"}
        unknown = sorted(set(options) - OPTIONS)
        if unknown or not pretrained:
            problem = f"does not know {unknown[0]!r}" if unknown else "needs pretrained=PATH_OR_HUB_ID"
            raise ConfigError(
                f"--model seedbench_r1 {problem}. --model_args takes pretrained and the options of `seedbench-r1 eval` "
                f"with underscores: {', '.join(sorted(OPTIONS))}."
            )
        config = options.pop("config", None)
        self._config_file = None if config is None else Path(str(config))
        # It adds this one too, asked or not, and only one of our backends has batches.
        file = read_config_file(self._config_file, Path(), EVAL_TABLE)
        backend = options.get("backend") or file.get("backend", "transformers")
        if backend != "transformers":
            options.pop("batch_size", None)
        if not isinstance(options.get("batch_size", 1), int):
            # lmms-eval passes "auto" and the like; those mean our default.
            text = str(options["batch_size"])
            options["batch_size"] = int(text) if text.isdigit() else None
        self._options = {
            name: Path(str(value)) if name in TABLE and TABLE[name].type is Path else value
            for name, value in options.items()
        }
        self._options["model"] = str(pretrained)

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer all requests, in their order.

        Raises:
            ConfigError: several ranks, or settings that no single run can have.
            DataError, ResourceError: as plan and run_plan.
            IncompleteRun: some questions have no answer. lmms-eval cannot express that and would count them as wrong;
                the answers that exist are saved, and the same command continues.
        """
        if self.world_size > 1:
            raise ConfigError(
                f"--model seedbench_r1 runs in one process, not in {self.world_size}: its backend uses the GPUs "
                f"itself. Fix: python -m lmms_eval without accelerate launch or torchrun."
            )
        documents = [self._document(request) for request in requests]
        # Documents of our tasks carry both; no other benchmark's do.
        ours = [doc for doc in documents if "data_root" in doc and "question_id" in doc]
        if ours and len(ours) < len(requests):
            raise ConfigError("--tasks mixes seedbench_r1 with other benchmarks. Fix: one lmms-eval command for each.")
        if not ours:
            return answer_other_tasks(requests, documents, self._options, self._config_file)
        if any(request.repeats and int(request.repeats) > 1 for request in requests):
            raise ConfigError("--model seedbench_r1 answers each question once. Fix: leave out --repeats.")
        records = self._answer(ours, requests)
        return [_result(records[doc["question_id"]]) for doc in documents]

    def _document(self, request: Instance) -> Document:
        _, _, _, doc_id, task, split = request.args
        document: Document = self.task_dict[task][split][doc_id]
        return document

    def _answer(self, documents: list[Document], requests: list[Instance]) -> dict[str, RunRecord]:
        """Run the questions of these documents."""
        # A run directory has one protocol id, and so one setting for all questions.
        settings = [_sampling_options(request.args[2]) for request in requests]
        if any(other != settings[0] for other in settings):
            raise ConfigError("The tasks of one command ask for different generation settings. Fix: use --gen_kwargs.")
        # One command has one data root: the task reads it from the same settings.
        roots = {doc["data_root"] for doc in documents}
        levels = tuple(dict.fromkeys(doc["split"] for doc in documents))
        # --model_args wins: what the user typed last about this model.
        options = {**settings[0], **self._options, "data_root": Path(roots.pop())}
        if levels != ("custom",):
            options["levels"] = levels
        config = resolve_eval_config(options, config_file=self._config_file)
        planned = _restrict(plan(config, command="lmms_eval --model seedbench_r1"), documents)
        with LocalEngine() as engine:
            run_plan(planned, engine)
        asked = {question.question_id for question in planned.questions}
        # Of earlier calls too: the run may hold more than was asked now.
        records = {i: record for i, record in recorded(planned.path).items() if i in asked}
        left = [i for i in asked if i not in records or not records[i].answered]
        if left:
            raise IncompleteRun(
                f"{len(left)} of {len(asked)} questions have no answer. "
                f"Why: seedbench-r1 show {planned.path} --failed. The others are saved; the same command continues."
            )
        return records

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not offered: raises ConfigError."""
        raise ConfigError("--model seedbench_r1 generates text; it gives no likelihoods. Choose a generate_until task.")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not offered: raises ConfigError."""
        raise ConfigError("--model seedbench_r1 answers in one round. Choose a generate_until task.")


def _sampling_options(generation_kwargs: JsonObject) -> JsonObject:
    """What --gen_kwargs changed. The tasks' own values are the standard protocol's and leave the choice to `eval`."""
    given = given_sampling(generation_kwargs)
    if generation_kwargs.get("do_sample") is False:
        given["temperature"] = 0.0
    return {name: value for name, value in given.items() if value != getattr(_SHIPPED, name)}


def _restrict(planned: Plan, documents: list[Document]) -> Plan:
    """The plan for the questions that lmms-eval asks, after checking that both sides mean the same prompt."""
    asked = {doc["question_id"]: doc for doc in documents}
    questions = [question for question in planned.questions if question.question_id in asked]
    for question in questions:
        ours = to_document(question, planned.config.template, planned.config.data_root)
        if ours["messages"] != asked[question.question_id]["messages"]:
            raise ConfigError(
                f"{question.question_id}: the task's prompt is not the model's. Fix: give the prompt file in "
                f"seedbench-r1.toml (prompt_file = ...), which both read, rather than in --model_args."
            )
    if len(questions) < len(asked):
        missing = sorted(set(asked) - {question.question_id for question in questions})
        raise ConfigError(f"{missing[0]} is not in the annotation files under {planned.config.data_root}.")
    wanted = {path for question in questions for path in (question.video, question.image)}
    return replace(planned, questions=questions, missing=[path for path in planned.missing if path in wanted])


def _result(record: RunRecord) -> GenerationResult:
    generation = record.generation
    if generation is None:  # never: unanswered questions raised IncompleteRun
        raise IncompleteRun(f"{record.question_id} has no answer.")
    counts = TokenCounts(input_tokens=generation.n_prompt_tokens, output_tokens=generation.n_tokens)
    return GenerationResult(text=generation.text, token_counts=counts)
