"""Runtimes of one model: their decoding speed, and the cost of 8-bit weights in bits per byte.

All runtimes decode on one thread, as an edge device or one worker of a server does.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import baselines, parity
from benchmarks.measure import OURS, paired, rows, seconds_of
from benchmarks.settings import Settings
from fftnet.api.generate import Writer
from fftnet.api.load import load
from fftnet.export import ExportConfig, export_model
from fftnet.export.runtime import OnnxWriter
from fftnet.model.fftnet_model import FFTNet
from fftnet.model.state import State
from fftnet.protocols import Batch
from fftnet.tasks.next_token import NextToken
from fftnet.utils.dataset import DataConfig, load_data

COMPILED = "compiled"
ONNX = "ONNX Runtime"
INT8 = "ONNX Runtime, int8"
BITS = "bits per byte"
TEXT = "python-docs"
INT8_TOLERANCE = 0.3
"""Largest difference of the logits with 8-bit weights, relative to their norm."""
PARITY_TOKENS = 20

Step = Callable[[Tensor, State], tuple[Tensor, State]]


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit PyTorch to one thread within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _agree(steps: Mapping[str, Step], starts: Mapping[str, State], what: str) -> None:
    """Compare the logits of all runtimes with those of PyTorch over a text.

    Raises:
        ParityError: if one differs.
    """
    text_T = torch.randint(0, baselines.VOCABULARY, (PARITY_TOKENS,))
    found: dict[str, Tensor] = {}
    for side, step in steps.items():
        state = starts[side]
        logits = []
        for token_1 in text_T.split(1):
            logits_1V, state = step(token_1, state)
            logits.append(logits_1V)
        found[side] = torch.stack(logits)
    for side in steps:
        # 8-bit weights are an approximation; all others must be equal up to round-off.
        tolerance = INT8_TOLERANCE if side == INT8 else parity.TOLERANCE
        parity.require(f"{side} and PyTorch ({what})", [found[side]], [found[OURS]], tolerance)


def _writing(step: Step, state: State, steps: int) -> Callable[[], object]:
    """Make the call that decodes a number of tokens, each time from the last call's state."""
    token_1 = torch.randint(0, baselines.VOCABULARY, (1,))

    def run() -> None:
        nonlocal state
        for _ in range(steps):
            state = step(token_1, state)[1]

    return run


def writers(model: FFTNet, folder: Path) -> dict[str, Writer]:
    """Export the model into the folder and return it with its exports."""
    export_model(model, None, ExportConfig(output=str(folder), int8=True))
    return {OURS: model, ONNX: OnnxWriter(folder, threads=1), INT8: OnnxWriter(folder, int8=True, threads=1)}


@torch.no_grad()
def _speeds(settings: Settings, width: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Time a decode step of one text in every runtime."""
    model = parity.perturbed(
        baselines.language_model(OURS, width, settings.read_heads, settings.layers), 0.02
    ).eval()
    runtimes = writers(model, folder)
    steps: dict[str, Step] = {side: writer.step for side, writer in runtimes.items()}
    # Models of other widths must not count against the limit of recompilations.
    torch.compiler.reset()
    steps[COMPILED] = torch.compile(model.step, backend=settings.compiler)
    position = settings.positions[0]
    tokens_BT = torch.randint(0, baselines.VOCABULARY, (1, position))
    read = {side: writer.prefill(tokens_BT, logits_to_keep=1)[1] for side, writer in runtimes.items()}
    # The compiled step continues from the state of the model that it was made of.
    read[COMPILED] = read[OURS]
    _agree(steps, read, f"D = {width}")
    calls = {side: _writing(step, read[side], settings.steps) for side, step in steps.items()}
    times = paired(calls, settings.time_budget, lambda run: seconds_of(run) / settings.steps)
    for row in rows("runtimes", baselines.STEP, 1, position, times):
        yield row.summary() | {"width": width}


@torch.no_grad()
def _bits(checkpoint: str, batches: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Measure bits per byte on held-out windows of python-docs, token by token in every runtime.

    Raises:
        ParityError: if runtimes with 32-bit weights differ.
    """
    model, tokenizer = load(checkpoint, device="cpu")
    model = model.float()
    # The same loss as in training, so that bits per byte are those of fftnet evaluate.
    task = NextToken(tokenizer.token_bytes())
    valid = load_data(DataConfig(data=[TEXT]), tokenizer, model.config.max_seq_length).valid
    taken = [valid.batch(0, index) for index in range(min(batches, valid.num_batches))]
    tokens = sum(int(batch.loss_mask.sum()) for batch in taken)
    found: dict[str, float] = {}
    for side, writer in writers(model, folder).items():
        summed = [_bits_of(writer, task, batch) for batch in taken]
        found[side] = sum(bits for bits, _ in summed) / sum(size for _, size in summed)
    ours, others = (torch.tensor([found[side]]) for side in (OURS, ONNX))
    parity.require("bits per byte of ONNX Runtime and of PyTorch", [others], [ours])
    for side, bits in found.items():
        row = {"suite": "runtimes", "side": side, "work": BITS, "of": TEXT, "tokens": tokens}
        yield row | {"bits_per_byte": bits}


def _bits_of(writer: Writer, task: NextToken, batch: Batch) -> tuple[float, float]:
    """Return the bits of all counted targets of a batch, and their bytes."""
    state = writer.init_state(batch.num_rows)
    logits = []
    for token_B in batch.inputs.unbind(dim=1):
        logits_BV, state = writer.step(token_B, state)
        logits.append(logits_BV)
    found = task.losses(torch.stack(logits, dim=1), batch.targets, batch.loss_mask).metrics["bits_per_byte"]
    return float(found.total), float(found.weight)


def runtimes(settings: Settings) -> Iterator[dict[str, Any]]:
    """Compare decode steps of all runtimes; measure bits per byte of a checkpoint, if one is given.

    Raises:
        ParityError: if two of them do not compute the same.
    """
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        for width in settings.runtime_widths:
            yield from _speeds(settings, width, Path(folder))
        if settings.checkpoint is not None:
            yield from _bits(settings.checkpoint, settings.runtime_batches, Path(folder))
