"""Key-value caches for decoding a batch token by token: one that grows, and one of fixed shape for CUDA graphs.

Both start from a prefilled DynamicCache, whose rows are repeated for the completions of each prompt, and give the same
logits up to rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from seedbench_r1.backends.prefill_each import cache_argument, inner
from seedbench_r1.errors import ConfigError

if TYPE_CHECKING:
    from transformers import Cache, DynamicCache, PreTrainedModel

    from seedbench_r1.backends.growing_mask import Mask

DecodeCache = Literal["auto", "dynamic", "static"]

Prefilled = tuple["DynamicCache", torch.Tensor]  # the cache of B prompts, and their mask (B, L) int64, left-padded

GRAPH_PAYS = 32  # new tokens; warming up and recording a graph costs about four steps


class RowCache(Protocol):
    """What was computed for the rows of a batch, and the step that adds a token to each."""

    def keep(self, places: list[int]) -> None:
        """Go on with the rows at these places of the current batch, in this order."""

    def step(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Feed one token to every row, both (rows,) int64 on the model's device; the logits after it, (rows, V)."""


def open_cache(kind: DecodeCache, model: PreTrainedModel, prefilled: Prefilled, *, repeats: int, room: int) -> RowCache:
    """The cache of `repeats` rows per prompt, with room for `room` more tokens each; `prefilled` is used up.

    auto is static on CUDA where enough tokens may come for a graph to pay, else dynamic.

    Args:
        kind: auto, static or dynamic.
        model: whose layers are cached.
        prefilled: see Prefilled.
        repeats: rows of the cache for each prompt.
        room: tokens that may be generated in each row.

    Raises:
        ConfigError: static for a model with sliding windows or other layers that are not of fixed shape.
    """
    if kind == "auto":
        fixed = model.device.type == "cuda" and room >= GRAPH_PAYS and _has_fixed_shapes(prefilled[0])
        kind = "static" if fixed else "dynamic"
    if kind == "static":
        return FixedCache(model, prefilled, repeats=repeats, room=room)
    return GrowingCache(model, prefilled, repeats=repeats, room=room)


class GrowingCache:
    """transformers' DynamicCache: a column longer after every step; rows that have ended are dropped.

    Its layers of full attention are ours (GrowingLayer).
    """

    def __init__(self, model: PreTrainedModel, prefilled: Prefilled, *, repeats: int, room: int) -> None:
        from transformers.cache_utils import DynamicLayer

        from seedbench_r1.backends.growing_layer import GrowingLayer
        from seedbench_r1.backends.growing_mask import GrowingMask

        self._model = model
        cache: Any = prefilled[0]  # transformers' layers have no types
        self._cache = cache
        mask = prefilled[1]
        if repeats > 1:
            self._cache.reorder_cache(_repeated(mask, repeats))
            mask = mask.repeat_interleave(repeats, dim=0)
        self._mask = GrowingMask(model, cache.layers, mask, room)
        self._cache.layers = [
            GrowingLayer(layer) if type(layer) is DynamicLayer and layer.is_initialized else layer
            for layer in self._cache.layers
        ]

    def keep(self, places: list[int]) -> None:
        """Drop all other rows."""
        index = torch.tensor(places, device=self._model.device)
        # Which selects rows in every kind of layer; batch_select_indices does not know states of linear attention.
        self._cache.reorder_cache(index)
        self._mask.keep(index)

    def step(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """See RowCache."""
        return _forward(self._model, tokens, positions, self._mask.grown(), self._cache)


class FixedCache:
    """transformers' StaticCache: memory and shapes stay, so that on CUDA a step is one recorded graph, replayed.

    Rows that have ended stay in the batch and are fed their last token again; nothing of them is read. All memory is
    allocated at the start: prompt and room for every row.
    """

    def __init__(self, model: PreTrainedModel, prefilled: Prefilled, *, repeats: int, room: int) -> None:
        from transformers import StaticCache

        source: Any = prefilled[0]  # transformers' layers have no types
        mask = prefilled[1]
        if not _has_fixed_shapes(source):
            raise ConfigError(
                "A static cache does not go with sliding windows and the like. Fix: --decode-cache dynamic"
            )
        rows, self._length = len(mask) * repeats, mask.shape[1]
        self._model = model
        self._cache = StaticCache(config=model.config.get_text_config(), max_cache_len=self._length + room)
        # Layer by layer, so that prompt and copy never both lie in memory for all layers.
        self._states: list[torch.Tensor] = []  # of linear attention: every step writes over them
        for place, filled in enumerate(source.layers):
            if hasattr(filled, "recurrent_states"):
                # Their shapes are fixed as they are, and they are written in place.
                filled.reorder_cache(_repeated(mask, repeats))
                self._cache.layers[place] = filled
                states = (*filled.conv_states.values(), *filled.recurrent_states.values())
                # A layer of short convolutions has no recurrent state.
                self._states += [state for state in states if state is not None]
            else:
                _fill(self._cache.layers[place], filled, repeats)
        self._mask = torch.zeros(rows, 1, 1, self._length + room, dtype=torch.bool, device=mask.device)
        self._mask[:, 0, 0, : self._length] = mask.repeat_interleave(repeats, dim=0).bool()
        # A graph reads its inputs from where they were recorded: these tensors are overwritten, never replaced.
        self._tokens = torch.zeros(rows, dtype=torch.int64, device=mask.device)
        self._positions = torch.zeros(rows, dtype=torch.int64, device=mask.device)
        self._live = torch.arange(rows, device=mask.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: torch.Tensor | None = None  # where the graph leaves them

    def keep(self, places: list[int]) -> None:
        """Look at these rows only."""
        self._live = self._live[torch.tensor(places, device=self._live.device)]

    def step(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """See RowCache."""
        self._tokens[self._live] = tokens
        self._positions[self._live] = positions
        self._mask[..., self._length] = True
        if self._mask.device.type == "cuda":
            if self._graph is None:
                self._record()
            self._graph.replay()  # type: ignore[union-attr]
            logits = self._logits
        else:
            logits = self._run()
        self._length += 1
        return logits[self._live]  # type: ignore[index]

    def _run(self) -> torch.Tensor:
        return _forward(self._model, self._tokens, self._positions, self._mask, self._cache)

    def _record(self) -> None:
        """Record one step. The warm-up before it writes where the step will write, and is undone."""
        before = [states.clone() for states in self._states]
        side_stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            # Two runs outside the graph: the first allocates workspaces and picks kernels, which capturing forbids.
            for _ in range(2):
                self._run()
                self._rewind(before)
        torch.cuda.current_stream().wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # the decode-ahead thread goes on
            self._logits = self._run()
        self._graph = graph

    def _rewind(self, before: list[torch.Tensor]) -> None:
        layers: list[Any] = self._cache.layers
        for layer in layers:
            # transformers counts the filled columns itself; the warm-up has advanced the count.
            if hasattr(layer, "cumulative_length"):
                layer.cumulative_length.fill_(self._length)
        for states, former in zip(self._states, before, strict=True):
            states.copy_(former)


def _forward(
    model: PreTrainedModel, tokens: torch.Tensor, positions: torch.Tensor, mask: Mask, cache: Cache
) -> torch.Tensor:
    """Logits (rows, V) after one more token per row."""
    # Time, height and width, where a family has them.
    on_three_axes = hasattr(inner(model), "get_rope_index")
    output = model(
        input_ids=tokens[:, None],
        attention_mask=mask,
        position_ids=positions.view(1, -1, 1).expand(3, -1, 1) if on_three_axes else positions[:, None],
        use_cache=True,
        **{cache_argument(model): cache},
    )
    logits: torch.Tensor = output.logits[:, -1]
    return logits


def _fill(layer: Any, filled: Any, repeats: int) -> None:  # noqa: ANN401  # transformers' layers have no types
    """Copy a prefilled layer into a static one, each row `repeats` times, and free it."""
    keys, values = (states.repeat_interleave(repeats, dim=0) for states in (filled.keys, filled.values))
    filled.keys = filled.values = None
    length = keys.shape[2]
    layer.lazy_initialization(keys, values)
    layer.keys[:, :, :length] = keys
    layer.values[:, :, :length] = values
    layer.cumulative_length.fill_(length)


def _has_fixed_shapes(prefilled: DynamicCache) -> bool:
    """Whether no layer moves its columns, as sliding windows do: a recorded graph cannot."""
    from transformers.cache_utils import DynamicLayer, LinearAttentionLayer

    return all(type(layer) in (DynamicLayer, LinearAttentionLayer) for layer in prefilled.layers)


def _repeated(mask: torch.Tensor, repeats: int) -> torch.Tensor:
    """Each row of the mask `repeats` times, as indices."""
    return torch.arange(len(mask), device=mask.device).repeat_interleave(repeats)
