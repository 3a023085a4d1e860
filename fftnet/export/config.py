"""What is exported, and where to."""

from dataclasses import dataclass

from fftnet.fields import MAX_SIZE, check_fields, check_range, documented


@documented
@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """An exported model.

    Raises:
        ValueError: if a field is out of range.
    """

    format: str = "onnx"
    """Format of the files: onnx."""
    output: str = "exported"
    """Folder that they are written into; made where it is missing."""
    block_length: int = 64
    """Tokens of a prompt that a causal model reads at once; what is left over is read token by token."""
    prefill: bool = True
    """Write a program that reads such blocks; without it a prompt is read token by token."""
    encoder_length: int | None = None
    """Tokens that a bidirectional model reads, no more and no fewer (None: its training window)."""
    int8: bool = False
    """Also write a decode step with weights of 8 bits: a quarter of the size, and faster."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, MAX_SIZE, "block_length", "encoder_length")
