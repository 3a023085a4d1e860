"""Exported causal models in ONNX Runtime: they write what the PyTorch model writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fftnet.export.config import ExportError, import_onnx
from fftnet.export.state_file import MAKE, layer_types, read_description
from fftnet.model.checks import check_ids
from fftnet.model.state import State, check_state, concat_states, layout_of, select_state


class OnnxWriter:
    """A causal model in ONNX Runtime, on the CPU, in float32; a ``fftnet.api.generate.Writer``.

    Args:
        folder: output of ``fftnet export``.
        int8: use the decode step with 8-bit weights; blocks of a prompt are still read with 32 bits.
        threads: number of threads of ONNX Runtime (None: as many as PyTorch).

    Raises:
        ExportError: if ONNX Runtime is not installed, or the folder is incomplete, damaged or not that of a
            causal model.
    """

    causal = True

    def __init__(self, folder: str | Path, *, int8: bool = False, threads: int | None = None) -> None:
        self.folder = Path(folder)
        self.description, self._entries = read_description(self.folder)
        self.device = torch.device("cpu")
        self.vocab_size: int = self.description["vocab_size"]
        files = self.description["files"]
        if "step" not in files:
            raise ExportError(f"{self.folder} holds a bidirectional model, which can't write")
        if int8 and "step_int8" not in files:
            raise ExportError(f"{self.folder} has no 8-bit weights: {MAKE} {self.folder} --int8")
        self._types = layer_types(self._entries)
        self._inputs = [entry.input for entry in self._entries]
        self._outputs = ["logits", *(entry.output for entry in self._entries)]
        self._layout = layout_of(self.init_state(1))
        # The state that the last call returned, and its arrays by input.
        self._newest: tuple[State | None, dict[str, np.ndarray]] = (None, {})
        self._block = self.description["block_length"] if "prefill" in files else 0
        self._threads = torch.get_num_threads() if threads is None else threads
        # A step's tensors are small: looking for one to reuse takes longer than a new one.
        self._step = self._open(files["step_int8" if int8 else "step"], reuse=False)
        self._prefill: Any = None

    def init_state(self, batch_size: int) -> State:
        """Return the state before the first token."""
        starts = [entry.start for entry in self._entries]
        return self._to_state([start.expand(batch_size, *start.shape[1:]).contiguous() for start in starts])

    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token (B,); return the next logits (B, V) and the new state.

        A wrong id, or a state of another model or batch, is a ValueError.
        """
        return self._run(self._step, "token", token, state)

    def prefill(
        self,
        tokens: Tensor,
        state: State | None = None,
        *,
        attention_mask: Tensor | None = None,
        chunk_size: int | None = None,
        logits_to_keep: int | None = 1,
    ) -> tuple[Tensor, State]:
        """Read ids (B, T), whole blocks first; return logits (B, 1, V) after the last one, and the new state.

        With a boolean ``attention_mask`` (B, T), False tokens are not read, and rows are read one by one.
        ``chunk_size`` has no effect: blocks have the exported size. ``logits_to_keep`` must be 1.
        """
        check_ids(tokens)
        if logits_to_keep != 1:
            raise ValueError(f"an exported model returns the last logits only, got {logits_to_keep=}")
        state = self.init_state(tokens.shape[0]) if state is None else state
        if attention_mask is not None:
            rows = [
                self.prefill(tokens[row : row + 1, attention_mask[row]], select_state(state, [row]))
                for row in range(tokens.shape[0])
            ]
            return torch.cat([logits for logits, _ in rows]), concat_states([after for _, after in rows])
        length = tokens.shape[1]
        if length == 0:
            raise ValueError("a row needs at least one token, got a sequence of length 0")
        logits_BV = tokens
        start = 0
        while start < length:
            if self._block and length - start >= self._block:
                if self._prefill is None:
                    self._prefill = self._open(self.description["files"]["prefill"], reuse=True)
                block = tokens[:, start : start + self._block]
                logits_BV, state = self._run(self._prefill, "tokens", block, state)
                start += self._block
            else:
                logits_BV, state = self.step(tokens[:, start], state)
                start += 1
        return logits_BV[:, None], state

    def _run(self, session: Any, name: str, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        ids = tokens.contiguous().numpy()
        # A single id is nearly always the case, and faster as a number of Python.
        for extreme in (ids.item(),) if ids.size == 1 else (int(ids.min()), int(ids.max())):
            if not 0 <= extreme < self.vocab_size:
                raise ValueError(f"id {extreme} lies outside the vocabulary of {self.vocab_size}")
        feeds = {**self._arrays(state, len(ids)), name: ids}
        try:
            found = session.run(self._outputs, feeds)
        # The exceptions of ONNX Runtime have no common base class.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ExportError(f"{self.folder} can't be run, export the model again: {reason}") from error
        logits_BV, *tensors = [torch.from_numpy(array) for array in found]
        after = self._to_state(tensors)
        self._newest = (after, dict(zip(self._inputs, found[1:], strict=True)))
        return logits_BV, after

    def _arrays(self, state: State, rows: int) -> dict[str, np.ndarray]:
        """Return the arrays of a state by input, after checking that it fits."""
        # While a text is written, the state is the one that the last call returned: checks would cost 3 %.
        newest, arrays = self._newest
        if state is newest and len(arrays[self._inputs[0]]) == rows:
            return arrays
        check_state(state, self._layout, rows)
        tensors = [tensor for layer in state for tensor in layer]
        return {name: tensor.contiguous().numpy() for name, tensor in zip(self._inputs, tensors, strict=True)}

    def _to_state(self, tensors: Sequence[Tensor]) -> State:
        remaining = iter(tensors)
        return tuple(kind(*(next(remaining) for _ in kind._fields)) for kind in self._types)

    def _open(self, name: str, reuse: bool) -> Any:
        runtime = import_onnx("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_mem_reuse = reuse
        path = self.folder / name
        if not path.is_file():
            raise ExportError(f"{path} is missing: {MAKE} {self.folder}")
        try:
            return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ExportError(f"{path} is damaged, export it again: {reason}") from error
