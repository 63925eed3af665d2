"""What lmms-eval's processes need around them, and a script for their model."""

import os

from seedbench_r1.questions import load_questions
from tests.small_benchmark import write_script

# Python runs a module of this name at its start. lmms-eval reads 1,300 task files at its own: half of its 10 s with
# PyYAML's parser in Python, a tenth of that with the one in C.
FAST_YAML = """
import yaml

if yaml.__with_libyaml__:

    class FullLoader(yaml.CFullLoader):
        def __init__(self, stream):
            super().__init__(stream)
            self.name = getattr(stream, "name", "text")  # lmms-eval asks for it, and only PyYAML's own has it

    yaml.FullLoader = yaml.loader.FullLoader = FullLoader
"""


def surroundings(cwd):
    """Environment of lmms-eval: no network, one thread, the parser in C."""
    (folder := cwd / "site").mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(FAST_YAML)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(cwd / "hf"), "PYTHONPATH": path}


def environment(cwd, **changes):
    """Of a process of lmms-eval's, without what this one was told about our settings."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("SBR1_")}
    return own | surroundings(cwd) | changes


def uneven_script(path, data_root):
    """Right on all of L1, on every other question of L2, on the Hobbies of L3."""
    answers, right = {}, {}
    for place, question in enumerate(load_questions(data_root)):
        by_level = {"L1": True, "L2": place % 2 == 0, "L3": question.domain == "Hobbies"}
        right[question.question_id] = by_level[question.split]
        wrong = next(letter for letter in "ABCD" if letter != question.gold)
        letter = question.gold if right[question.question_id] else wrong
        answers[question.question_id] = f"<think>see</think><answer>{letter}</answer>\n"
    return write_script(path, **answers), right
