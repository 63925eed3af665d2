"""Chunked log-probabilities against one log-softmax over everything, and what they keep in memory."""

import pytest
import torch

from trainers.logprobs import chunk_rows_of, token_logprobs

HIDDEN, VOCABULARY = 6, 50


def case(n, dtype=torch.float64):
    drawn = torch.Generator().manual_seed(n)
    layer = torch.nn.Linear(HIDDEN, VOCABULARY, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(VOCABULARY, HIDDEN, generator=drawn))
        layer.bias.copy_(torch.randn(VOCABULARY, generator=drawn))
    hidden = torch.randn(n, HIDDEN, generator=drawn).to(dtype).requires_grad_()
    return layer, hidden, torch.randint(0, VOCABULARY, (n,), generator=drawn)


@pytest.mark.parametrize("temperature", [1.0, 0.25])
@pytest.mark.parametrize(("n", "chunk"), [(1, 4), (4, 4), (11, 4), (11, 100), (11, 1)])
def test_equals_a_full_log_softmax(n, chunk, temperature):
    layer, hidden, tokens = case(n)
    upstream = torch.linspace(-1, 2, n, dtype=torch.float64)
    full = (layer(hidden) / temperature).log_softmax(-1)[torch.arange(n), tokens]
    expected = torch.autograd.grad((full * upstream).sum(), [hidden, layer.weight, layer.bias])
    ours = token_logprobs(layer, hidden, tokens, temperature=temperature, chunk_rows=chunk)
    got = torch.autograd.grad((ours * upstream).sum(), [hidden, layer.weight, layer.bias])
    torch.testing.assert_close(ours, full, rtol=0, atol=1e-13)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(token_logprobs(layer, hidden, tokens, temperature=temperature, chunk_rows=chunk), ours)


def test_bfloat16_logits_are_widened_before_the_softmax():
    layer, hidden, tokens = case(9, torch.bfloat16)
    logits = layer(hidden).detach()
    exact = logits.double().log_softmax(-1)[torch.arange(9), tokens]
    ours = token_logprobs(layer, hidden, tokens, chunk_rows=4)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=2e-6)
    narrow = logits.log_softmax(-1)[torch.arange(9), tokens]
    assert (narrow.double() - exact).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("vocabulary", "hidden", "dtype", "rows"),
    [
        (152_064, 3584, torch.bfloat16, 512),  # 7B: 311 MB of logits next to weights of 1.09 GB
        (151_936, 2048, torch.bfloat16, 256),  # 3B
        (151_936, 2048, torch.float32, 576),
        (300, 64, torch.float32, 64),
    ],
)
def test_chunks_grow_with_the_output_layer(vocabulary, hidden, dtype, rows):
    layer = torch.nn.Linear(hidden, vocabulary, bias=False, dtype=dtype, device="meta")
    assert chunk_rows_of(layer) == rows
    assert rows == 64 or 4 * rows * vocabulary <= 0.3 * layer.weight.nbytes


def test_large_logits_stay_finite():
    weight = torch.eye(3) * 1e4
    ours = token_logprobs(lambda rows: rows @ weight, torch.eye(3), torch.tensor([0, 1, 0]))
    assert ours.tolist() == [0.0, 0.0, -1e4]


def test_no_more_than_a_chunk_is_projected_at_once_and_no_logits_are_kept():
    layer, hidden, tokens = case(10)
    sizes, kept = [], []

    def project(rows):
        sizes.append(len(rows))
        return layer(rows)

    def pack(tensor):
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = token_logprobs(project, hidden, tokens, chunk_rows=4).sum()
    assert sizes == [4, 4, 2]
    assert not [shape for shape in kept if VOCABULARY in shape and HIDDEN not in shape]
    loss.backward()
    assert sorted(sizes) == [2, 2, 4, 4, 4, 4], "each chunk once more in the backward pass"


def test_no_rows_are_still_part_of_the_graph():
    layer, hidden, tokens = case(0)
    ours = token_logprobs(layer, hidden, tokens)
    assert ours.shape == (0,)
    ours.sum().backward()
    assert (layer.weight.grad == 0).all()
    assert hidden.grad.shape == (0, HIDDEN)


def test_temperature_zero_is_refused():
    layer, hidden, tokens = case(1)
    with pytest.raises(ValueError, match="temperature is 0"):
        token_logprobs(layer, hidden, tokens, temperature=0)
