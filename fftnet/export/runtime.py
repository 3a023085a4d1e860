"""A causal model that ``fftnet export`` wrote, run by ONNX Runtime: it writes what the PyTorch model writes.

It is a ``fftnet.api.generate.Writer``. Its states are values like those of a PyTorch model, and are expanded,
picked from and concatenated like these (``fftnet.model.state``), though their types are not that model's.
"""

from collections import namedtuple
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fftnet.export.errors import ExportError, import_onnx
from fftnet.export.state_file import MAKE, StateTensor, read_facts
from fftnet.model.checks import check_ids
from fftnet.model.state import State, check_state, concat_states, layout_of, select_state


class OnnxWriter:
    """A causal model in ONNX Runtime, on the CPU, in float32.

    Args:
        folder: that ``fftnet export`` wrote.
        int8: take the decode step with weights of 8 bits; prompts are still read with those of 32, as far as
            they fill blocks.
        threads: that ONNX Runtime computes with (None: as many as PyTorch).

    Raises:
        ExportError: if ONNX Runtime is not installed, or a file of the folder is missing, damaged or not that
            of a causal model.
    """

    causal = True

    def __init__(self, folder: str | Path, *, int8: bool = False, threads: int | None = None) -> None:
        self.folder = Path(folder)
        self.facts, described = read_facts(self.folder)
        self.device = torch.device("cpu")
        self.vocab_size = described.vocab_size
        files = described.files
        if "step" not in files:
            raise ExportError(f"{self.folder} holds a bidirectional model, which can't write")
        if int8 and "step_int8" not in files:
            raise ExportError(f"{self.folder} was exported without 8 bits: {MAKE} {self.folder} --int8")
        self._entries: tuple[StateTensor, ...] = described.state
        self._kinds = _kinds(self._entries)
        self._inputs = [entry.input for entry in self._entries]
        self._outputs = ["logits", *(entry.output for entry in self._entries)]
        self._layout = layout_of(self.init_state(1))
        self._newest: tuple[State | None, dict[str, np.ndarray]] = (None, {})
        """The state that the last call returned, kept, and its arrays."""
        # 0: it was exported without a program that reads blocks.
        self._block = described.block_length if "prefill" in files else 0
        self._threads = torch.get_num_threads() if threads is None else threads
        self._step = self._open(files["step_int8" if int8 else "step"])
        self._prefill: Any = None

    def init_state(self, batch_size: int) -> State:
        """The state before the first token, of so many rows."""
        return self._unflatten([entry.start(batch_size).contiguous() for entry in self._entries])

    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token.

        Args:
            token: int64 ids (B,).
            state: what was read before; it is left as it was.

        Returns:
            Logits (B, V) of the next token, and the new state.

        Raises:
            ValueError: on ids that are not in the vocabulary, or a state of another model or batch.
        """
        logits_BV, after, _ = self._run(self._step, "token", token, state)
        return logits_BV, after

    def step_with_filters(self, token: Tensor, state: State) -> tuple[Tensor, State, Tensor | None]:
        """As ``step``, and the read filters' magnitudes (B, L, H, F) at this token.

        ``facts["filters"]`` says which layers these are; None if none has a filter.
        """
        asked = ["filters"] if self.facts["filters"]["layers"] else []
        logits_BV, after, filters = self._run(self._step, "token", token, state, *asked)
        return logits_BV, after, filters[0] if filters else None

    def prefill(
        self,
        tokens: Tensor,
        state: State | None = None,
        *,
        attention_mask: Tensor | None = None,
        chunk_size: int | None = None,
        logits_to_keep: int | None = 1,
    ) -> tuple[Tensor, State]:
        """Read T tokens that follow what ``state`` has read: in whole blocks, then token by token.

        Args:
            tokens: int64 ids (B, T), T >= 1.
            state: from ``init_state`` or an earlier call; None starts a text.
            attention_mask: boolean (B, T); a False token is not read. Rows are then read one by one.
            chunk_size: has no effect: blocks have the size that was exported.
            logits_to_keep: 1, since no others are computed.

        Returns:
            Logits (B, 1, V) after the last token, and the new state; the one handed in is left as it was.

        Raises:
            ValueError: on an empty row, other logits, or as ``step``.
        """
        check_ids(tokens)
        if logits_to_keep != 1:
            raise ValueError(f"an exported model gives the last logits only, got {logits_to_keep=}")
        state = self.init_state(tokens.shape[0]) if state is None else state
        if attention_mask is not None:
            rows = [
                self.prefill(tokens[row : row + 1, attention_mask[row]], select_state(state, [row]))
                for row in range(tokens.shape[0])
            ]
            return torch.cat([logits for logits, _ in rows]), concat_states([after for _, after in rows])
        logits_BV = None
        for piece in self._pieces(tokens):
            if piece.shape[1] == self._block:
                self._prefill = self._prefill or self._open(self.facts["files"]["prefill"])
                logits_BV, state, _ = self._run(self._prefill, "tokens", piece, state)
            else:
                logits_BV, state = self.step(piece[:, 0], state)
        if logits_BV is None:
            raise ValueError("a row needs at least one token, got a sequence of length 0")
        return logits_BV[:, None], state

    def _pieces(self, tokens_BT: Tensor) -> Iterator[Tensor]:
        """Whole blocks, then single tokens."""
        whole = tokens_BT.shape[1] // self._block * self._block if self._block else 0
        if whole:
            yield from tokens_BT[:, :whole].split(self._block, dim=1)
        yield from tokens_BT[:, whole:].split(1, dim=1) if whole < tokens_BT.shape[1] else ()

    def _run(
        self, session: Any, name: str, tokens: Tensor, state: State, *extra: str
    ) -> tuple[Tensor, State, list[Tensor]]:
        """Logits, the new state, and the outputs that are asked for beside them."""
        ids = tokens.contiguous().numpy()
        self._check(ids)
        feeds = self._arrays(state, len(ids))
        try:
            found = session.run([*self._outputs, *extra], {**feeds, name: ids})
        # Each failure has a class of its own there, without a common one.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ExportError(f"{self.folder} can't be run, export the model again: {reason}") from error
        tensors = [torch.from_numpy(array) for array in found]
        size = len(self._entries)
        after = self._unflatten(tensors[1 : size + 1])
        self._newest = (after, dict(zip(self._inputs, found[1 : size + 1], strict=True)))
        return tensors[0], after, tensors[size + 1 :]

    def _arrays(self, state: State, rows: int) -> dict[str, np.ndarray]:
        """The tensors of a state by the names of the inputs, once it is seen to fit."""
        # Nearly always it is what the last call returned, and a decode step feels every microsecond.
        newest, arrays = self._newest
        if state is newest and len(arrays[self._inputs[0]]) == rows:
            return arrays
        check_state(state, self._layout, rows)
        tensors = [tensor for layer in state for tensor in layer]
        return {name: tensor.contiguous().numpy() for name, tensor in zip(self._inputs, tensors, strict=True)}

    def _check(self, ids: np.ndarray) -> None:
        alone = ids.size == 1
        lowest = ids.item() if alone else int(ids.min())
        highest = lowest if alone else int(ids.max())
        if lowest < 0 or highest >= self.vocab_size:
            wrong = lowest if lowest < 0 else highest
            raise ValueError(f"id {wrong} lies outside the vocabulary of {self.vocab_size}")

    def _unflatten(self, tensors: Sequence[Tensor]) -> State:
        waiting = iter(tensors)
        return tuple(kind(*(next(waiting) for _ in kind._fields)) for kind in self._kinds)

    def _open(self, name: str) -> Any:
        runtime = import_onnx("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # A step's tensors are small: looking for one to write over takes longer than having one each.
        options.enable_mem_reuse = name == self.facts["files"].get("prefill")
        path = self.folder / name
        if not path.is_file():
            raise ExportError(f"{path} is missing: {MAKE} {self.folder}")
        try:
            return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        # Each failure has a class of its own there, without a common one.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ExportError(f"{path} is damaged, export it again: {reason}") from error


def _kinds(entries: Sequence[StateTensor]) -> list[Any]:
    """The types of the parts of a state: tensors that belong to the same layers are one part."""
    layers: dict[tuple[int, ...], list[StateTensor]] = {}
    for entry in entries:
        layers.setdefault(entry.layers, []).append(entry)
    return [
        _kind(
            tuple(entry.field for entry in own),
            tuple((entry.field, entry.grows + 1) for entry in own if entry.grows is not None),
        )
        for own in layers.values()
    ]


@cache
def _kind(fields: tuple[str, ...], growing: tuple[tuple[str, int], ...]) -> Any:
    """One type for equal states, so that those of two runtimes of one model go together."""
    return type("LayerState", (namedtuple("LayerState", fields),), {"growing": dict(growing)})
