"""What the tasks hand to lmms-eval and what is made of its files; no lmms-eval is run here, as the other files do."""

import itertools
import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from leaderboards.exports.lmms_results import DOMAIN_METRICS, LEVEL_METRICS
from seedbench_r1.config import lmms_checkpoint, resolve_eval_config
from seedbench_r1.engines.lmms import LmmsEngine, lmms_model, own_model_args, read_records, write_task
from seedbench_r1.engines.lmms_process import TASK_FOLDER, LmmsJob, LmmsModel, join_model_args
from seedbench_r1.engines.lmms_transfer import TASKS, TransferResult, plan_transfer, read_transfer
from seedbench_r1.engines.plan import plan
from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.lmms_tasks import functions
from seedbench_r1.prompts import DEFAULT_TEMPLATE, build_messages, build_prompt, load_template
from seedbench_r1.questions import load_questions
from seedbench_r1.suites import find_suite
from seedbench_r1.types import SamplingConfig, Template, VideoConfig
from tests.small_benchmark import write_script

GOOD = "<think>wash it</think><answer>{}</answer>"


def read_yaml(name):
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    return yaml.load((TASK_FOLDER / name).read_text(encoding="utf-8"), Loader)


@pytest.fixture
def questions(data_root):
    return load_questions(data_root)


@pytest.fixture
def config(data_root, tmp_path):
    given = {"model": str(write_script(tmp_path / "s.json")), "backend": "fake", "data_root": data_root}
    return resolve_eval_config(given | {"runs_dir": tmp_path / "runs"}, environ={}, working_dir=tmp_path)


def document(question, template=DEFAULT_TEMPLATE):
    return functions.to_document(question, template, Path("data"))


def test_the_prompt_is_the_core_s_and_the_media_stand_where_our_runner_puts_them(questions):
    for question in questions:
        doc = document(question)
        assert functions.doc_to_text(doc) == build_prompt(question, DEFAULT_TEMPLATE)
        (message,) = functions.doc_to_messages(doc)
        core = build_messages(question, DEFAULT_TEMPLATE)[0]["content"]
        assert [part["type"] for part in message["content"]] == [part["type"] for part in core]
        assert message["content"][-1]["text"] == core[-1]["text"]
        media = {part["type"]: part["url"] for part in message["content"] if "url" in part}
        assert media.get("video") == (str(question.video) if question.video else None)
        assert (media["image"].mode, media["image"].size) == ("RGB", (64, 64))


def test_a_system_message_is_part_of_the_cache_key(questions):
    template = Template(dict.fromkeys(("with_video", "without_video"), "{question}|{options}"), system="Be brief.")
    doc = document(questions[0], template)
    assert [message["role"] for message in functions.doc_to_messages(doc)] == ["system", "user"]
    assert functions.doc_to_text(doc) == "Be brief.\n\n" + build_prompt(questions[0], template)


def test_every_document_gives_every_metric_and_what_its_sample_should_hold(questions):
    listed = [metric["metric"] for metric in read_yaml("level_template")["metric_list"]]
    for question in questions:
        result = functions.process_results(document(question), [" " + GOOD.format(question.gold)])
        assert set(listed) <= set(result)
        assert (result["accuracy"], result["strict_match"], result["letter_given"]) == (1.0, 1.0, 1.0)
        assert result["raw_text"] == " " + GOOD.format(question.gold)  # untouched
        assert (result["question_id"], result["answer"], result["reasoning"]) == (
            question.question_id,
            question.gold,
            "wash it",
        )
        known = {name for name in listed if name.startswith(("level_", "domain_")) and result[name] is not None}
        wanted = {LEVEL_METRICS[question.split]}
        assert known == wanted | ({DOMAIN_METRICS[question.domain]} if question.domain else set())
        assert not any(isinstance(result[name], dict) for name in result)
    assert {functions.process_results(document(questions[0]), [""])[name] for name in listed[:4]} == {0.0}


def test_no_metric_name_is_part_of_another_and_the_group_lists_known_ones(questions):
    names = list(functions.process_results(document(questions[0]), [""]))
    assert not [(a, b) for a in names for b in names if a != b and a in b]
    grouped = [metric["metric"] for metric in read_yaml("seedbench_r1.yaml")["aggregate_metric_list"]]
    assert set(grouped) == set(names) - {"clustered_se", "question_id", "video_id", "reasoning", "answer", "raw_text"}
    assert all(metric["weight_by_size"] for metric in read_yaml("seedbench_r1.yaml")["aggregate_metric_list"])


def test_the_tasks_ask_for_the_standard_protocol():
    task, standard = read_yaml("level_template"), SamplingConfig()
    given = task["generation_kwargs"]
    assert given["until"] == []
    assert (given["max_new_tokens"], given["temperature"], given["top_p"], given["do_sample"]) == (
        standard.max_new_tokens,
        standard.temperature,
        standard.top_p,
        True,
    )
    assert (task["reasoning_tags"], task["cluster_key"]) == ("none", "video_id")
    assert sorted(path.name for path in TASK_FOLDER.glob("*.yaml")) == [
        "seedbench_r1.yaml",
        *(f"seedbench_r1_l{i}.yaml" for i in (1, 2, 3)),
    ]


def test_aggregation_by_hand():
    assert functions.mean_of_known([1.0, None, 0.0, 1.0]) == 2 / 3
    assert functions.mean_of_known([None, None]) is None
    # 3 of 4 and 1 of 2 right: 4 of 6, whereas the mean of the means would be 0.625; the third task has none
    assert functions.pooled_mean([0.75, 0.5, None], [4, 2, 10], True) == pytest.approx(2 / 3, abs=1e-15)
    assert functions.pooled_mean([None], [3], True) is None
    with pytest.raises(ValueError, match="weighted by questions"):
        functions.pooled_mean([0.5], [2], False)
    # two videos, one all right, one all wrong: residuals sum to +1 and -1, so sqrt(2/1 x (1 + 1) / 16) = 0.5
    values = [[1.0, "a"], [1.0, "a"], [0.0, "b"], [0.0, "b"]]
    assert functions.clustered_standard_error(values) == pytest.approx(0.5, abs=1e-12)


def test_the_entry_point_imports_next_to_nothing():
    code = "import sys, seedbench_r1.lmms_tasks.manifest; print(*{'torch', 'lmms_eval', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def job(folder, **changes):
    return replace(LmmsJob(LmmsModel("m", "pretrained=x"), ("seedbench_r1_l1",), folder), **changes)


def write_samples(job, task, rows):
    (job.out / "x").mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (job.out / "x" / f"20240101_000000_samples_{task}.jsonl").write_text(text)
    job.log.write_text("some line\nlmms_eval - Error during evaluation: no memory. Please set `--verbosity=DEBUG`\n")


def test_only_a_question_that_is_there_exactly_once_is_answered(questions, tmp_path):
    asked, mine = questions[:6], job(tmp_path)
    counts = [{"input_tokens": 7, "output_tokens": 3}]
    sample = [{"question_id": q.question_id, "raw_text": GOOD.format(q.gold), "token_counts": counts} for q in asked]
    cut = {"question_id": asked[3].question_id, "raw_text": "<think>", "token_counts": [{"output_tokens": 5}]}
    empty = {"question_id": asked[4].question_id, "raw_text": "", "token_counts": [None]}
    silent = {"question_id": asked[5].question_id, "raw_text": "", "token_counts": [{"output_tokens": 0}]}
    write_samples(mine, "seedbench_r1_l1", [sample[0], sample[1], sample[1], cut, empty, silent])
    right, twice, absent, truncated, nothing, unparsed = read_records(mine, asked, SamplingConfig(max_new_tokens=5))
    assert (right.score.correct, right.generation.n_prompt_tokens, right.generation.n_tokens) == (True, 7, 3)
    assert "2 answers" in twice.failure.message
    assert "log ends with: no memory;" in absent.failure.message
    assert (truncated.score.outcome, truncated.generation.finish_reason) == ("truncated", "length")
    assert nothing.failure.kind == "backend_error"
    assert unparsed.score.outcome == "unparsed"


@pytest.mark.parametrize("row", [{"question_id": "L1/none", "raw_text": "x"}, {"raw_text": "x"}])
def test_a_sample_that_was_not_asked_for_is_an_error(questions, tmp_path, row):
    write_samples(job(tmp_path), "seedbench_r1_l1", [row])
    with pytest.raises(DataError, match="not asked"):
        read_records(job(tmp_path), questions[:1], SamplingConfig())


def test_model_args_carry_what_lmms_eval_can_read(config, tmp_path):
    assert join_model_args({"a": 1, "b": None, "c": True}) == "a=1,c=True"
    for value in ("a,b", "{x}", 'say "x"'):
        with pytest.raises(ConfigError, match="cannot carry"):
            join_model_args({"pretrained": value})
    assert lmms_checkpoint("device_map=cpu,pretrained=org/name") == "org/name"
    assert lmms_checkpoint("device_map=cpu") is None
    changed = replace(
        config,
        video=VideoConfig(max_frames=8),
        template=Template({"with_video": "a {question} {options}\x7f", "without_video": 'b\n"{question}" {options}'}),
    )
    args = dict(pair.split("=", 1) for pair in own_model_args(changed, tmp_path / "run").split(","))
    assert (args["max_frames"], args["temperature"], args["backend"]) == ("8", "0.1", "fake")
    assert {field.name for field in fields(VideoConfig)} <= set(args)
    assert load_template(Path(args["prompt_file"])) == changed.template


def test_the_settings_file_of_the_user_is_not_read_again_under_lmms_eval(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seedbench-r1.toml").write_text('dtype = "float16"\n')
    args = dict(pair.split("=", 1) for pair in own_model_args(config, tmp_path / "run").split(","))
    found = resolve_eval_config({"model": "m", "data_root": Path()}, environ={}, config_file=Path(args["config"]))
    assert found.dtype == config.dtype == "auto"
    assert resolve_eval_config({"model": "m", "data_root": Path()}, environ={}).dtype == "float16"


def test_generated_tasks_hold_the_run_s_settings(config, questions, tmp_path):
    greedy = replace(config, sampling=SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=9))
    write_task(tmp_path / "t", "seedbench_r1_l1", questions[:2], greedy)
    task = yaml.safe_load((tmp_path / "t" / "seedbench_r1_l1.yaml").read_text())
    assert task["generation_kwargs"] == {
        "until": [],
        "max_new_tokens": 9,
        "temperature": 0.0,
        "top_p": 1.0,
        "do_sample": False,
    }
    assert Path(task["include"]).is_file()
    settings = json.loads(Path(task["dataset_kwargs"]["settings"]).read_text())
    assert settings["template"]["with_video"] == DEFAULT_TEMPLATE.wording["with_video"]
    assert len(Path(settings["questions"]).read_text().splitlines()) == 2


def under_lmms_eval(config, model, args=None, **changes):
    return replace(config, engine="lmms-eval", lmms_model=model, lmms_model_args=args, **changes)


def test_lmms_eval_s_models_have_a_protocol_of_their_own(config):
    asked = under_lmms_eval(config, "seedbench_r1")
    ours = plan(asked)
    assert lmms_model(asked).is_ours
    assert (ours.manifest.backend, ours.manifest.protocol) == ("lmms-eval:seedbench_r1", "standard")
    assert ours.path.name == f"fake-s-lmms-seedbench_r1--{ours.manifest.protocol_id}"
    ids = {ours.manifest.protocol_id}
    for args in ("max_num_frames=16", "max_num_frames=8"):
        asked = under_lmms_eval(config, "qwen2_5_vl", args)
        planned = plan(asked)
        assert lmms_model(asked).args == f"pretrained={config.model},{args}"
        assert (planned.manifest.backend, planned.manifest.protocol) == ("lmms-eval:qwen2_5_vl", "lmms-eval")
        assert planned.manifest.versions["lmms-eval"].startswith("0.7.")
        ids.add(planned.manifest.protocol_id)
    assert len(ids) == 3
    same = plan(under_lmms_eval(config, "qwen2_5_vl", "max_num_frames=8,device_map=cpu"))
    assert same.manifest.protocol_id in ids


def test_what_lmms_eval_cannot_do_is_refused_by_name(config):
    with pytest.raises(ConfigError, match="--suite transfer does not run on --engine lmms-eval"):
        LmmsEngine().check(under_lmms_eval(config, "qwen2_5_vl"), find_suite("transfer"))
    for args, flag in (("temperature=1.0", "--temperature"), ("pretrained=other", "--model")):
        with pytest.raises(ConfigError, match=f"is a setting of this run. Fix: {flag} instead"):
            plan(under_lmms_eval(config, "seedbench_r1", args))
    with pytest.raises(ConfigError, match="--lmms-model NAME"):
        plan(under_lmms_eval(config, None))
    given = {"model": "x", "data_root": config.data_root, "engine": "lmms-eval", "lmms_model": "m", "shard": (1, 2)}
    with pytest.raises(ConfigError, match="--shard belongs to --engine local"):
        resolve_eval_config(given, environ={})


def test_a_checkpoint_that_lmms_eval_loads_is_known_like_any_other(config, tmp_path):
    """Also one of an architecture that our own backends do not load."""
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["OtherForConditionalGeneration"]}))
    save_file({"weights": np.zeros(1)}, folder / "model.safetensors")
    (folder / "training.json").write_text(json.dumps({"algorithm": "care", "step": 30}))
    planned = plan(under_lmms_eval(config, "other_model", f"pretrained={folder}"))
    assert planned.checkpoint.folder == folder
    assert (planned.manifest.model.algorithm, planned.manifest.model.step) == ("care", 30)
    named = plan(under_lmms_eval(config, "other_model", "model_version=gpt-x"))
    assert (named.checkpoint, named.manifest.model.path) == (None, "gpt-x")


def test_the_transfer_commands(config):
    planned = plan_transfer(replace(config, limit=3), LmmsModel("qwen2_5_vl", "pretrained=m"))
    assert planned.path.name == "transfer-lmms--s.json"
    for task in TASKS:
        command = planned.job(task).command()
        options = dict(itertools.pairwise(command))
        assert command[:3] == [sys.executable, "-m", "lmms_eval"]
        assert (options["--tasks"], options["--model"], options["--model_args"]) == (task, "qwen2_5_vl", "pretrained=m")
        assert (options["--limit"], "--log_samples" in command) == ("3", True)
        assert str(planned.path / task) in options["--output_path"]
    own = plan_transfer(config, LmmsModel("seedbench_r1", ""))
    assert "backend=fake" in own.model.args
    assert not own.path.exists()


def results_file(job, results, sizes):
    (job.out / "x").mkdir(parents=True, exist_ok=True)
    value = {"results": results, "n-samples": {n: {"original": a, "effective": b} for n, (a, b) in sizes.items()}}
    (job.out / "x" / "20240101_000000_results.json").write_text(json.dumps(value))


def test_reading_a_benchmark_s_results(tmp_path):
    one = job(tmp_path / "one", tasks=("videomme",))
    results_file(
        one, {"videomme": {"alias": "videomme", "score,none": 61.5, "score_stderr,none": "N/A"}}, {"videomme": (3, 2)}
    )
    write_samples(one, "videomme", [{"doc_id": 0}, {"doc_id": 1}])
    assert read_transfer(one) == TransferResult("videomme", "subset", 2, 3, {"score": 61.5})
    write_samples(one, "videomme", [{"doc_id": 0}])
    short = read_transfer(one)
    assert (short.status, short.metrics) == ("incomplete", {})
    assert "1 of 2 answers" in short.reason
    write_samples(one, "videomme", [{"doc_id": 0}, {"doc_id": 0}])
    with pytest.raises(DataError, match="twice"):
        read_transfer(one)
    none = job(tmp_path / "none", tasks=("videomme",))
    none.folder.mkdir()
    none.log.write_text("x\nlast line\n")
    assert "last line" in read_transfer(none).reason
