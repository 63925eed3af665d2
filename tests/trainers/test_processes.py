"""What a process does among its peers that no training shows."""

import itertools
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta

import pytest
import torch

import trainers.grpo
import trainers.watch
from seedbench_r1.cli.app import main
from seedbench_r1.cli.outcome import lost_peer
from seedbench_r1.errors import ConfigError, ResourceError
from tests.forked import Server
from tests.trainers.launch import command, environment, ranks
from tests.trainers.toy import plan_and_train, toy_config
from trainers.processes import Processes

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


SETTINGS = {"num_generations": 4, "max_steps": 3, "rollout_batch_size": 2, "save_steps": 100}


def fail():
    raise ResourceError("the device is full")


def end():
    os.kill(os.getpid(), signal.SIGKILL)


def hang():
    time.sleep(15)


def end_unnoticed():
    """Killed while the other process is deaf, as it is behind a kernel of NCCL; long enough there to have said so."""
    if os.environ["RANK"] == "1":
        time.sleep(2 * trainers.watch.PERIOD_S)
        end()
    time.sleep(300)


def wait_in_the_store():
    """Process 1 fails while the other waits in the group's store, as it does when groups are made."""
    if os.environ["RANK"] == "1":
        time.sleep(3)
        fail()
    torch.distributed.distributed_c10d._get_default_store().wait(["never"], timedelta(seconds=300))


def train_troubled():
    """The command, in a process of its own; in its second policy pass a process of the given rank is in trouble."""
    rank, trouble, *words = sys.argv[1:]
    backward, passes = trainers.grpo.backward_groups, itertools.count(1)

    def troubled(*given):
        if next(passes) == 2 and rank in ("all", os.environ["RANK"]):
            globals()[trouble]()
        return backward(*given)

    trainers.grpo.backward_groups = troubled
    trainers.watch.DEAD_S, trainers.watch.GRACE_S = 10.0, 2.0
    sys.argv = ["seedbench-r1", *words]
    main()


def ended(toy, out, rank, trouble, *extra):
    """Exit codes and what was said, of two processes that nobody else watches, as torchrun's agent would."""
    config = toy_config(toy.sft, toy.data, out, "grpo", **SETTINGS)
    modules = [__name__, "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl", "torch._dynamo"]
    server = Server("train", f"{__name__}:train_troubled", modules)
    words, quiet = command(config, *extra)[3:], {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    children = [server.popen([str(rank), trouble, *words], env=environment(**told), **quiet) for told in ranks(2)]
    server.close()
    try:
        errors = [child.communicate(timeout=200)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    return [child.returncode for child in children], errors


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_fails_ends_the_other_with_its_words(toy, tmp_path, rank):
    codes, errors = ended(toy, tmp_path, rank, "fail")
    assert codes == [7, 7], errors
    assert "the device is full" in errors[rank]
    assert f"The training has ended: process {rank}: ResourceError: the device is full" in errors[1 - rank]


def test_a_process_that_is_killed_ends_the_other(toy, tmp_path):
    codes, errors = ended(toy, tmp_path, 0, "end")
    assert codes == [-9, 1], errors
    assert "The training has ended: process 0 cannot be reached any more" in errors[1]


def test_a_broken_connection_is_not_called_a_bug(toy, tmp_path):
    """Process 0 keeps the store, so it hears of process 1's end from gloo alone."""
    codes, errors = ended(toy, tmp_path, 1, "end")
    assert codes == [1, -9], errors
    assert "Another process has ended (killed, out of memory, or a lost node): torchrun's last lines" in errors[0]
    assert "the same command continues" in errors[0]
    assert "This is a bug" not in errors[0]


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (torch.distributed.DistBackendError("NCCL error: remote process exited or there was a network error"), True),
        (torch.distributed.DistNetworkError("Failed to recv, got 0 bytes. Connection was likely closed."), True),
        (torch.distributed.DistNetworkError("The connection was closed: Broken pipe"), True),
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4242"), True),
        (RuntimeError("Timed out waiting 1800000ms for recv operation to complete (gloo)"), True),
        (torch.distributed.DistBackendError("NCCL error: invalid usage"), False),
        (torch.distributed.DistNetworkError("The server socket has failed to listen: EADDRINUSE"), False),
        (RuntimeError("the decoder's connection closed"), False),
        (TimeoutError("gloo timed out"), False),
    ],
)
def test_which_errors_mean_that_a_peer_is_gone(error, is_lost):
    assert (lost_peer(error) is not None) == is_lost


def test_a_process_that_is_killed_ends_one_that_notices_nothing(toy, tmp_path):
    codes, errors = ended(toy, tmp_path, "all", "end_unnoticed")
    assert codes == [1, -9], errors
    last = "last in step 2, policy passes, iteration 1: killed?"
    assert f"The training has ended: process 1 has given no sign of life for 10 s, {last}" in errors[0]


def test_a_process_that_waits_in_the_store_hears_of_a_failure(toy, tmp_path):
    codes, errors = ended(toy, tmp_path, "all", "wait_in_the_store")
    assert codes == [7, 7], errors
    assert "The training has ended: process 1: ResourceError: the device is full" in errors[0]


def test_a_process_that_hangs_says_where_and_may_go_on(toy, tmp_path):
    codes, errors = ended(toy, tmp_path, 1, "hang", "--hang-timeout", "5")
    assert codes == [0, 0], errors
    assert "s in process 1: step 2, policy passes, iteration 1. Where every thread stands" in errors[1]
    assert " in hang\n" in errors[1]
    # The other one waits for it.
    assert "in process 0: step 2, optimizer. Where every thread stands" in errors[0]


def test_a_step_names_its_stages_in_their_order(toy, tmp_path, monkeypatch):
    options = SETTINGS | {"max_steps": 1, "num_iterations": 2, "eval_every": 1, "eval_questions": 1}
    config, named = toy_config(toy.sft, toy.data, tmp_path, "care", **options), []
    stage = property(lambda processes: named[-1], lambda processes, name: named.append(name))
    monkeypatch.setattr(Processes, "stage", stage, raising=False)
    plan_and_train(config)
    passes = [name for number in (1, 2) for name in (f"policy passes, iteration {number}", "optimizer")]
    step = ["questions", "rollouts", "rewards", "reference", *passes, "metrics", "average", "log"]
    # Without a name: what begins outside of a step, the held-out questions and the checkpoint among it.
    assert [name for name in named if name] == step
    assert named[-2:] == ["log", ""]


def test_more_processes_than_gpus_are_refused(monkeypatch):
    def started(**options):
        raise RuntimeError("CUDA error: invalid device ordinal\nCUDA kernel errors might be reported later.")

    monkeypatch.setattr("accelerate.PartialState", started)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"more processes on this node than GPUs .*, 2\. Fix: --nproc-per-node 2"):
        Processes("auto")
