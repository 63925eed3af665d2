"""The Python interface: every block of docs/python.md runs, and importing the package imports nothing heavy."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import seedbench_r1 as sb
from seedbench_r1.config_file import toml_lines
from seedbench_r1.demo.dataset_writer import write_benchmark
from seedbench_r1.demo.models import shipped_model
from seedbench_r1.demo.settings import CLIP, EVALUATION, MEDIA, PROMPT, TRAINING, write_settings
from seedbench_r1.errors import ConfigError

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A working directory as the page supposes it, in the miniature world."""
    write_benchmark(tmp_path / "data", seed=1, questions={"L1": 3, "L2": 1, "L3": 3}, train=8, **CLIP)
    write_settings(tmp_path / "data")
    for name in ("sft", "grpo", "care"):
        shutil.copytree(shipped_model(name), tmp_path / "checkpoints" / name)
    (tmp_path / "checkpoints" / "sft").rename(tmp_path / "checkpoints" / "base")
    shared = {"prompt_file": f"data/{PROMPT}", "workers": 1, "device": "cpu", **MEDIA}
    training = TRAINING | {"per_device_train_batch_size": 1, "num_generations": 2, "max_completion_length": 24}
    del training["max_steps"]
    tables = {"eval": {**shared, **EVALUATION, "max_new_tokens": 40}, "train": {**shared, **training}}
    text = "".join(f"[{name}]\n{toml_lines(values)}" for name, values in tables.items())
    (tmp_path / "seedbench-r1.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_of_the_page_runs(project, capsys):
    names: dict[str, object] = {}
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)):
        exec(compile(block, f"docs/python.md, block {number}", "exec"), names)
    shown = capsys.readouterr().out
    assert "complete" in shown
    assert (project / "leaderboard.html").stat().st_size > 10_000
    assert list(names["table"].columns)[:6] == ["question_id", "split", "domain", "kind", "cluster", "gold"]
    assert set(names["table"].consistent) == {None}, "the table was taken before anything was judged"
    run = sb.load(names["run"].path)
    assert len(run.to_dataframe().consistent.dropna()) == sum(
        v.consistent is not None for v in names["verdicts"].values()
    )
    assert names["result"].step == 1
    assert list(names["trained"].summary().splits) == ["L1"]


def test_importing_it_imports_nothing_heavy():
    code = "import sys, seedbench_r1; print(*{'torch', 'pandas', 'numpy', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_every_public_name_is_there_and_documented():
    for name in sb.__all__:
        if name != "__version__":
            assert getattr(sb, name).__doc__, name
    assert set(sb.__all__) <= set(dir(sb))
    with pytest.raises(AttributeError, match="no attribute 'evaluat'"):
        _ = sb.evaluat


def test_a_setting_that_does_not_exist_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no setting 'max_frame'\. Did you mean 'max_frames'"):
        sb.evaluate(model="m", max_frame=8)
