"""Models that their own processor feeds: what such a processor must not do, and what is refused."""

import dataclasses
import json
import re
import shutil
from functools import partial

import pytest
import torch
import transformers

from seedbench_r1.backends import loading
from seedbench_r1.backends.base import draws
from seedbench_r1.backends.transformers import TransformersBackend
from seedbench_r1.backends.vllm_engine import check_family
from seedbench_r1.cli.model_report import lines, report_model
from seedbench_r1.engines.plan import fit_to_model, plan
from seedbench_r1.errors import ConfigError
from seedbench_r1.models import any_processor, families
from seedbench_r1.models.any_processor import load_any_processor
from seedbench_r1.models.checkpoint import inspect_model
from seedbench_r1.models.families import GENERIC
from seedbench_r1.protocol import protocol_id
from seedbench_r1.types import Generation, SamplingConfig, VideoConfig
from tests.family_table import WHY_NOT
from tests.tiny_generic import generic_checkpoint
from tests.tiny_models import request
from tests.unit.test_evaluate import configure


@pytest.fixture
def internvl(tmp_path):
    """A copy that may be edited."""
    return shutil.copytree(generic_checkpoint("internvl"), tmp_path / "internvl")


def planned(model, data_root, tmp_path, **options):
    return plan(configure(data_root, tmp_path, model=str(model), backend="transformers", **options))


def test_a_processor_that_drops_frames_is_refused_before_a_clip_is_decoded(internvl, data_root, tmp_path, monkeypatch):
    prepare = transformers.InternVLVideoProcessor._prepare_input_videos

    def first_two(self, videos, **options):
        return [video[:2] for video in prepare(self, videos, **options)]

    planned(internvl, data_root, tmp_path)
    monkeypatch.setattr(transformers.InternVLVideoProcessor, "_prepare_input_videos", first_two)
    with pytest.raises(ConfigError, match=r"tokens of 14 frames and \d+ of 16: it drops frames.*Nothing was decoded"):
        planned(internvl, data_root, tmp_path)


def test_a_template_without_clips_is_refused(internvl, data_root, tmp_path):
    template = internvl / "chat_template.jinja"
    template.write_text(template.read_text().replace("'video'", "'film'"))
    with pytest.raises(ConfigError, match=r"cannot render L1/\d+: the prompt has 0 times <video>, the request 1"):
        planned(internvl, data_root, tmp_path)


def test_a_processor_without_clips_is_refused(internvl, data_root, tmp_path):
    path = internvl / "processor_config.json"
    config = json.loads(path.read_text())
    del config["video_processor"]
    path.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"takes no clips|Cannot load tokenizer and processor"):
        planned(internvl, data_root, tmp_path)


def test_a_placeholder_in_a_question_is_that_questions_failure():
    processor = load_any_processor(str(generic_checkpoint("internvl")))
    with pytest.raises(ValueError, match=r"2 times <video>, the request 1"):
        processor.prepare(request("L1/1", question="What is <video>?"))


def test_a_context_without_room_is_said_with_both_numbers():
    processor = dataclasses.replace(load_any_processor(str(generic_checkpoint("internvl"))), context=50)
    with pytest.raises(ValueError, match=r"the prompt has \d+ tokens, the model's context is 50"):
        processor.prepare(request("L1/1"))


def test_clip_metadata_is_asked_for():
    processor = load_any_processor(str(generic_checkpoint("glm46v")))
    with pytest.raises(ValueError, match="native_fps and n_total"):
        processor.prepare(dataclasses.replace(request("L1/1"), native_fps=None))
    with pytest.raises(ValueError, match="4 frames came with 3 frame indices"):
        processor.prepare(dataclasses.replace(request("L1/1"), frame_indices=(0, 1, 2)))


def test_who_sizes_the_frames_is_part_of_the_protocol_id(data_root, tmp_path):
    config = configure(data_root, tmp_path, model="x")
    ids = {}
    for family in ("glm46v", "internvl", "gemma3"):
        fitted = fit_to_model(config, inspect_model(str(generic_checkpoint(family))))
        ids[family] = protocol_id(fitted.template, fitted.video, fitted.sampling)
    assert len(set(ids.values())) == 3
    # As it has always been where they are sized here.
    assert ids["glm46v"] == protocol_id(config.template, VideoConfig(), SamplingConfig())


def test_frames_as_images_come_with_their_times_before_the_current_view():
    processor = load_any_processor(str(generic_checkpoint("gemma3")))
    text = processor.render(dataclasses.replace(request("L1/1"), frame_indices=(0, 15, 45, 60), native_fps=30.0))
    frames = [f" Frame at {time} s: <start_of_image>" for time in ("0.0", "0.5", "1.5", "2.0")]
    assert "".join(frames) + " Image: <start_of_image>What" in text
    images = processor.prepare(request("L1/1", n_frames=4)).arguments["pixel_values"]
    assert len(images) == 5


OWN_CODE = """
from transformers import {parent}

class Own{kind}({parent}):
    model_type = "own_vl"
    {more}
"""


@pytest.fixture
def own_code(internvl):
    """InternVL as a model that transformers does not know, in the names of its own module."""
    model = transformers.AutoModelForImageTextToText.from_pretrained(internvl)
    model.save_pretrained(internvl, save_original_format=False)
    (internvl / "own_config.py").write_text(OWN_CODE.format(parent="InternVLConfig", kind="Config", more=""))
    text = OWN_CODE.format(parent="InternVLForConditionalGeneration", kind="Model", more="config_class = OwnConfig")
    (internvl / "own_model.py").write_text("from .own_config import OwnConfig\n" + text)
    config = json.loads((internvl / "config.json").read_text())
    config |= {"model_type": "own_vl", "architectures": ["OwnModel"]}
    config["auto_map"] = {
        "AutoConfig": "own_config.OwnConfig",
        "AutoModelForImageTextToText": "own_model.OwnModel",
    }
    (internvl / "config.json").write_text(json.dumps(config))
    return internvl


def test_programs_of_a_checkpoint_are_run_only_if_allowed(own_code, data_root, tmp_path):
    with pytest.raises(ConfigError, match=r"'own_vl' model.*programs of its own.*Fix: --trust-remote-code"):
        planned(own_code, data_root, tmp_path)
    allowed = planned(own_code, data_root, tmp_path, trust_remote_code=True)
    assert allowed.manifest.versions["remote code"] == "allowed"
    backend = TransformersBackend(str(own_code), device="cpu", trust_remote_code=True)
    assert type(backend.model).__name__ == "OwnModel"
    sampling = SamplingConfig(temperature=0.0, max_new_tokens=4)
    ((_, answer),) = backend.generate(iter([request("L1/1")]), sampling)
    assert isinstance(answer, Generation)


def test_a_hub_id_given_to_the_backend_itself_is_read_as_through_a_plan(hub, internvl, monkeypatch, caplog):
    """Of a family that no table has: warned of, once, and given clips since its processor takes them."""
    others = tuple(family for family in GENERIC if family.model_type != "internvl")
    for module in (families, any_processor):
        monkeypatch.setattr(module, "GENERIC", others)
    any_processor._warn_of_untried.cache_clear()
    hub.add("models/someone/new", {path.name: path.read_bytes() for path in internvl.iterdir()})
    backend = TransformersBackend("someone/new", device="cpu")
    assert backend.processor.preprocess == inspect_model(str(internvl)).preprocess == "processor"
    load_any_processor(str(internvl))
    assert caplog.text.count("Models of type internvl have not been tried here") == 1


def test_a_family_that_is_no_image_text_to_text_is_refused_by_the_backend_itself(hub, internvl):
    config = {"model_type": "bert", "architectures": ["BertModel"]}
    (internvl / "config.json").write_text(json.dumps(config))
    hub.add("models/someone/bert", {path.name: path.read_bytes() for path in internvl.iterdir()})
    with pytest.raises(ConfigError, match=r"is a 'bert' model \(BertModel\); our backends load .*--engine lmms-eval"):
        TransformersBackend("someone/bert", device="cpu")


@pytest.mark.parametrize("family", GENERIC, ids=lambda family: family.model_type)
def test_what_vllm_is_not_used_for_is_said_before_it_starts(family, caplog):
    checkpoint = inspect_model(str(generic_checkpoint(family.model_type)))
    if family.vllm_refused is not None:
        assert (family.model_type, "vllm") in WHY_NOT
        why = re.escape(family.vllm_refused)
        with pytest.raises(ConfigError, match=f"not used for {family.model_type} models: .*{why}.*--backend"):
            check_family(checkpoint)
        return
    check_family(checkpoint)
    assert ("vLLM may answer otherwise" in caplog.text) == (family.vllm_doubt is not None)


def test_attention_is_flash_only_where_it_can_be(monkeypatch):
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert loading.resolve_attention("auto", gpu, "bfloat16") == "sdpa"
    with pytest.raises(ConfigError, match="flash-attn is not installed"):
        loading.resolve_attention("flash", gpu, "bfloat16")
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda _: object())
    assert loading.resolve_attention("auto", gpu, "bfloat16") == "flash"
    assert loading.resolve_attention("sdpa", gpu, "bfloat16") == "sdpa"
    assert loading.resolve_attention("auto", cpu, "bfloat16") == "sdpa"
    with pytest.raises(ConfigError, match="16-bit weights on a GPU"):
        loading.resolve_attention("flash", gpu, "float32")


def test_attention_is_in_the_manifest(data_root, tmp_path):
    assert planned(generic_checkpoint("internvl"), data_root, tmp_path).manifest.versions["attention"] == "sdpa"


def test_a_models_report_says_what_is_done_for_it():
    report = report_model(str(generic_checkpoint("internvl")))
    assert (report.model_type, report.tried, report.trained, report.frame_times) == ("internvl", True, False, False)
    fewest, most = report.prompt_tokens
    assert fewest < most < report.context == 8192
    assert "<video><IMG_CONTEXT>What next?" in report.prompt
    text = "\n".join(lines(report))
    assert f"{fewest} to {most} (fewest to most frames)" in text


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_context_that_holds_the_fewest_frames_only_is_warned_of(internvl, data_root, tmp_path, caplog):
    text = json.loads((internvl / "config.json").read_text())["text_config"]
    edit_config(internvl, text_config=text | {"max_position_embeddings": 700})
    planned(internvl, data_root, tmp_path)
    assert "questions on long clips may fail" in caplog.text
    edit_config(internvl, text_config=text | {"max_position_embeddings": 50})
    with pytest.raises(ConfigError, match=r"takes at least \d+ tokens .*holds 50.*--min-frames"):
        planned(internvl, data_root, tmp_path)


def test_another_models_processor_is_refused_before_the_weights_are_read(internvl, data_root, tmp_path):
    other = str(generic_checkpoint("llava_onevision"))
    with pytest.raises(ConfigError, match=r"is not the model's: its placeholders are"):
        planned(internvl, data_root, tmp_path, processor=other)
    glm = shutil.copytree(generic_checkpoint("glm46v"), tmp_path / "glm")
    edit_config(glm, image_token_id=300)
    with pytest.raises(ConfigError, match=r"config.json has 300"):
        load_any_processor(str(glm))


def test_encoders_with_decoders_are_refused(internvl):
    edit_config(internvl, is_encoder_decoder=True)
    with pytest.raises(ConfigError, match="does not continue a prompt"):
        load_any_processor(str(internvl))


def test_a_report_names_what_a_template_lacks(internvl):
    template = internvl / "chat_template.jinja"
    template.write_text(template.read_text().replace("'<video>'", "'film'"))
    with pytest.raises(ConfigError, match=r"cannot take a clip and an image: the prompt has 0 times <video>"):
        report_model(str(internvl))


def test_a_prompt_of_text_alone_has_the_positions_of_no_other():
    backend = TransformersBackend(str(generic_checkpoint("glm46v")), device="cpu", batch_size=4)
    sampling = SamplingConfig(temperature=0.0, max_new_tokens=6, logprobs=True)
    shown = request("L1/1")
    text = dataclasses.replace(
        shown,
        question_id="t",
        messages=({"role": "user", "content": "What?"},),
        frames=None,
        frame_indices=(),
        image=None,
    )
    alone = dict(backend.generate(iter([text]), sampling))["t"]
    batch = [backend._prepare(one, draws(one, sampling)) for one in (shown, text)]
    after = dict(backend._answer(batch, partial(backend._decode, sampling=sampling)))["t"]
    assert after.token_ids == alone.token_ids
    assert after.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
