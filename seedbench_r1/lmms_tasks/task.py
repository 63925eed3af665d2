"""The task class: documents come from our data root, not from a hub, and raw responses reach the scorer untouched."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
from lmms_eval.api.task import ConfigurableMessagesTask
from lmms_eval.models import MODEL_REGISTRY_V2

from seedbench_r1.config import resolve_eval_config
from seedbench_r1.errors import ConfigError
from seedbench_r1.files import JsonObject
from seedbench_r1.lmms_tasks.functions import Document, process_results, to_document
from seedbench_r1.questions import load_questions
from seedbench_r1.runs.records import question_from_json, read_lines, template_from_json


class SeedBenchR1Task(ConfigurableMessagesTask):  # type: ignore[misc]  # lmms-eval has no types
    """One level. The YAML file names it in `dataset_name`."""

    def __init__(self, config: JsonObject) -> None:
        super().__init__(config={name: value for name, value in config.items() if name != "class"})

    def download(self, dataset_kwargs: JsonObject | None = None) -> None:
        """Build the documents in memory; nothing is fetched and no cache is touched.

        Without `dataset_kwargs` the level's annotation file is read from the data root that `seedbench-r1 eval` would
        take (SBR1_DATA_ROOT, seedbench-r1.toml, ./data), with that file's prompt. `settings` names a JSON file with
        data_root, template and questions instead, as `eval --engine lmms-eval` writes it.

        Raises:
            ConfigError: no data root.
            DataError: invalid annotations, with file and line.
        """
        settings = (dataset_kwargs or {}).get("settings")
        documents = _documents_from(Path(settings)) if settings else _documents_of(self.config.dataset_name)
        self.dataset = datasets.DatasetDict({self.config.test_split: datasets.Dataset.from_list(documents)})
        # lmms-eval looks at this copy for prompts alone; ours holds paths, no pixels.
        self.dataset_no_image = self.dataset

    def build_all_requests(self, **options: object) -> None:
        """As lmms-eval does, unless its model cannot take messages.

        Raises:
            ConfigError: the model is one of lmms-eval's "simple" models: it would get neither order nor media right.
        """
        # The check comes here: the task is made before the model is known.
        arguments = getattr(self, "args", None)  # lmms-eval's command line; None when it is called from Python
        if arguments is not None:
            refuse_simple_model(arguments.model, force_simple=arguments.force_simple)
        super().build_all_requests(**options)

    def process_results(self, doc: Document, results: list[str], full_docs: object = None) -> dict[str, object]:
        """The responses as they came: lmms-eval would strip them first, and try five times if scoring failed."""
        return process_results(doc, results)


def refuse_simple_model(name: str, *, force_simple: bool) -> None:
    """Raise ConfigError if lmms-eval would run the model without chat messages."""
    if MODEL_REGISTRY_V2.resolve(name, force_simple=force_simple).model_type == "chat":
        return
    reason = "--force_simple was given" if force_simple else "it has no chat interface in lmms-eval"
    raise ConfigError(
        f"seedbench_r1 needs a model that takes chat messages, since a question shows a clip and an image in this "
        f"order; {name!r} does not: {reason}. Fix: choose a chat model (lmms_eval/models/chat), or "
        f"--model seedbench_r1 --model_args pretrained=PATH."
    )


def _documents_of(level: str) -> list[Document]:
    # The files and variables that `eval` reads, so that both ask the same questions.
    config = resolve_eval_config({"model": "any"})  # for data root and prompt; the model is lmms-eval's
    questions = load_questions(config.data_root, (level,))
    return [to_document(question, config.template, config.data_root) for question in questions]


def _documents_from(path: Path) -> list[Document]:
    settings = json.loads(path.read_text(encoding="utf-8"))
    template, data_root = template_from_json(settings["template"]), Path(settings["data_root"])
    questions = read_lines(Path(settings["questions"]), question_from_json)
    return [to_document(question, template, data_root) for question in questions]
