"""Tokenizer, template and pixel statistics read from a folder's files are those that AutoProcessor gives."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seedbench_r1.models import processor
from seedbench_r1.models.processor import open_processor
from tests.tiny_models import FAMILIES, tiny_checkpoint

MESSAGES = [
    {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
    {"role": "user", "content": [{"type": "video"}, {"type": "image"}, {"type": "text", "text": "What next?"}]},
]


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def as_first_published(folder: Path) -> None:
    """The layout of the first releases: one file for image and clip, and the template as JSON."""
    (folder / "processor_config.json").unlink()
    (folder / "video_preprocessor_config.json").unlink()
    template = folder / "chat_template.jinja"
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template.read_text()}))
    template.unlink()


LAYOUTS = {"as saved today": lambda folder: None, "as first published": as_first_published}
UNCERTAIN = {
    "another mean in one file": lambda f: edit(f / "preprocessor_config.json", image_mean=[0.1, 0.2, 0.3]),
    "no mean": lambda f: edit(f / "preprocessor_config.json", image_mean=None),
    "a class that is not known": lambda f: edit(f / "video_preprocessor_config.json", video_processor_type="My"),
    "code of its own": lambda f: edit(f / "preprocessor_config.json", auto_map={"AutoProcessor": "x.Y"}),
    "several templates": lambda f: (f / "additional_chat_templates").mkdir(),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_files_say_what_autoprocessor_says(family, layout, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(tiny_checkpoint(family), tmp_path / "model"))
    layout(folder)
    ours = open_processor(str(folder), None)
    assert ours.renderer is ours.tokenizer
    monkeypatch.setattr(processor, "_from_files", lambda folder: None)
    theirs = open_processor(str(folder), None)
    assert theirs.renderer is not theirs.tokenizer
    assert ours.statistics == theirs.statistics
    assert ours.chat_template == theirs.chat_template
    assert ours.tokenizer.get_vocab() == theirs.tokenizer.get_vocab()
    for options in ({"add_generation_prompt": True}, {}):
        mine, other = (
            parts.renderer.apply_chat_template(MESSAGES, chat_template=parts.chat_template, tokenize=False, **options)
            for parts in (ours, theirs)
        )
        assert mine == other
        assert ours.tokenizer(mine)["input_ids"] == theirs.tokenizer(other)["input_ids"]


@pytest.mark.parametrize("change", UNCERTAIN.values(), ids=UNCERTAIN)
def test_what_is_not_certain_is_left_to_autoprocessor(change, tmp_path):
    folder = Path(shutil.copytree(tiny_checkpoint("qwen2_5_vl"), tmp_path / "model"))
    assert processor._from_files(folder) is not None
    change(folder)
    assert processor._from_files(folder) is None


def test_no_image_library_is_imported_for_a_prompt():
    """Two of the four seconds before the first question went into it."""
    folder = str(tiny_checkpoint("qwen2_5_vl"))
    code = (
        "import sys; from seedbench_r1.models.qwen_vl import load_processor; "
        f"load_processor({folder!r}); print([name for name in ('torchvision', 'torch._dynamo') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
