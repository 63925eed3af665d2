"""The pretended accelerator counts right, and the rehearsal finds bugs that were planted."""

import dataclasses

import pytest
import torch

import trainers.grpo
import trainers.shared_prefix
from tests.gpu import shapes
from tests.rehearsal.accelerator import BLOCK, DEVICE, Accelerator, DeviceMixing
from tests.rehearsal.baseline import Numbers, rehearse_apart, worse
from tests.rehearsal.step import Case

SMALL = Case("smoke", "care", prompt=60, media=shapes.MEDIA[60], completion=64)


@pytest.fixture
def accelerator():
    accelerator = Accelerator()
    with accelerator.running(), accelerator.counting("test"):
        yield accelerator


def test_bytes_are_live_until_the_last_view_is_gone(accelerator):
    first = torch.empty(1000, dtype=torch.float32, device=DEVICE)
    assert accelerator.live == 8 * BLOCK  # 4,000 bytes
    view = first[10:].view(-1, 2)
    del first
    assert accelerator.live == 8 * BLOCK
    copy = view.clone()
    assert accelerator.live == 16 * BLOCK
    view.untyped_storage().resize_(0)
    assert accelerator.live == 8 * BLOCK
    del view, copy
    assert accelerator.live == 0
    assert accelerator.stages["test"].peak == 16 * BLOCK


def test_arithmetic_and_kernels_are_counted_in_the_innermost_stage(accelerator):
    a, b = torch.ones(3, 5, device=DEVICE), torch.ones(5, 7, device=DEVICE)
    with accelerator.counting("inner"):
        assert (a @ b).shape == (3, 7)
    a.T.add(1)
    inner, outer = accelerator.stages["inner"], accelerator.stages["test"]
    assert (inner.flops, inner.kernels, inner.moved) == (2 * 3 * 5 * 7, 1, 4 * (15 + 35 + 21))
    assert (outer.flops, outer.kernels) == (0, 3)  # two fills and the sum; a transposed view is none


def test_values_that_the_host_knows_are_read_back_and_counted(accelerator):
    grid = torch.tensor([[8, 16, 32], [1, 32, 32]], device=DEVICE)
    assert (grid.prod(-1) // 4).tolist() == [1024, 256]
    assert grid[0, 1].item() == 16
    lengths = torch.repeat_interleave(grid[:, 1], grid[:, 0])
    assert lengths.shape == (9,)
    numbers = torch.ones(9, device=DEVICE)
    assert numbers[lengths == 32].shape == (1,)
    stage = accelerator.stages["test"]
    assert sum(stage.synchronisations.values()) == 4
    assert all(place.startswith("rehearsal/test_accelerator.py:") for place in stage.synchronisations)
    assert stage.uploads == 1


def test_other_values_are_zeros_or_what_was_answered(accelerator):
    drawn = torch.rand(2, 3, device=DEVICE)
    accelerator.answers = iter([7])
    assert drawn.argmax(1).tolist() == [7, 7]
    assert drawn.argmax(1).tolist() == [0, 0]
    assert float(drawn.sum()) == 0.0
    known = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    view = known[1:]
    known[:1] = drawn.argmax(1)[:1]
    accelerator.answers = iter([5])
    assert view.tolist() == [5], "what was written over is not known any more, in no view"
    with pytest.raises(NotImplementedError, match=r"mask of unknown values at rehearsal/test_accelerator\.py"):
        drawn[drawn > 0]


def test_operations_on_two_devices_are_refused_as_by_cuda(accelerator):
    there, here = torch.ones(3, device=DEVICE), torch.ones(3)
    with pytest.raises(DeviceMixing, match=r"add\w* of tensors on cpu and meta at rehearsal/test_accelerator\.py"):
        there + here
    assert (there + torch.tensor(1.0)).device == DEVICE
    assert there[torch.tensor([0, 2])].shape == (2,)
    with pytest.raises(DeviceMixing):
        here[torch.tensor([0, 2], device=DEVICE)]
    there.copy_(here)


@pytest.fixture(scope="module")
def sound():
    return {name: Numbers.of(stage) for name, stage in rehearse_apart(SMALL).items()}


def test_a_rehearsal_gives_the_same_numbers_again(sound):
    again = rehearse_apart(SMALL)
    assert {name: Numbers.of(stage) for name, stage in again.items()} == sound
    assert not worse(again, sound)


def plant_mask_on_the_cpu():
    packing = trainers.shared_prefix._packing

    def planted(*given):
        packed = packing(*given)
        shape = packed.heads_per_key * packed.width, packed.prompt + packed.width
        return dataclasses.replace(packed, masks={torch.bfloat16: torch.zeros(shape)})

    trainers.shared_prefix._packing = planted


def plant_targets_on_the_cpu():
    score = trainers.shared_prefix.token_logprobs

    def planted(project, hidden, tokens, **options):
        return score(project, hidden, torch.zeros(tokens.shape, dtype=torch.int64), **options)

    trainers.shared_prefix.token_logprobs = planted


@pytest.mark.parametrize(
    ("plant", "where"),
    [(plant_mask_on_the_cpu, r"attention .*shared_prefix\.py"), (plant_targets_on_the_cpu, r"nll_loss.*logprobs\.py")],
)
def test_a_tensor_on_the_wrong_device_is_found(plant, where):
    with pytest.raises(DeviceMixing, match=where):
        rehearse_apart(SMALL, first=plant)


def plant_look_at_a_value():
    attention = trainers.shared_prefix._completion_attention

    def planted(query, *given):
        assert query.sum().item() == 0
        return attention(query, *given)

    trainers.shared_prefix._completion_attention = planted


def test_a_look_at_a_value_in_attention_is_found(sound):
    found = worse(rehearse_apart(SMALL, first=plant_look_at_a_value), sound)
    assert [complaint.partition(":")[0] for complaint in found] == ["reference", "policy"]
    assert all("host synchronisations" in c and "test_accelerator.py" in c for c in found)


def plant_kept_copy():
    score, kept = trainers.grpo.group_logprobs, []

    def planted(model, *given, **options):
        kept.append(model.lm_head.weight.detach().clone())
        return score(model, *given, **options)

    trainers.grpo.group_logprobs = planted


def test_a_copy_that_is_kept_is_found(sound):
    found = worse(rehearse_apart(SMALL, first=plant_kept_copy), sound)
    assert any(complaint.startswith("policy: a peak of") for complaint in found)


def plant_second_pass_of_the_output_layer():
    score = trainers.shared_prefix.token_logprobs
    trainers.shared_prefix.token_logprobs = lambda *given, **options: (
        (score(*given, **options) + score(*given, **options)) / 2
    )


def test_another_pass_of_the_output_layer_is_found(sound):
    found = worse(rehearse_apart(SMALL, first=plant_second_pass_of_the_output_layer), sound)
    assert any(complaint.startswith("policy:") and "TFLOP" in complaint for complaint in found)
