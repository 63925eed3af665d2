"""What a process does among its peers that no training shows."""

import os
import subprocess
import sys

from tests.trainers.launch import environment

SCRIPT = """
import sys
from multiprocessing import get_context

from trainers.processes import Processes

Processes("cpu")  # where a training begins
if __name__ == "__main__":
    worker = get_context("spawn").Process(target=print)
    worker.start()
    worker.join()
    sys.exit(worker.exitcode)
"""


def test_a_worker_that_comes_upon_the_training_says_so(tmp_path):
    """It would take the place of its own parent among the peers, and all of them would wait for ever."""
    (tmp_path / "train.py").write_text(SCRIPT)
    command = [sys.executable, tmp_path / "train.py"]
    done = subprocess.run(command, env=environment(PYTHONPATH=os.getcwd()), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'Fix: call main(), evaluate() or train() below `if __name__ == "__main__":`' in done.stderr
