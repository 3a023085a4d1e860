"""Settings of the trainer itself."""

from dataclasses import dataclass

from fftnet.fields import check_fields, documented


@documented
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Evaluations, logging and safeguards of a run.

    Raises:
        ValueError: if a field is out of range.
    """

    eval_every: int | None = None
    """Steps between two evaluations (default: an epoch, but 5 to 30 evaluations in a run)."""
    eval_batches: int = 50
    """Validation batches of an evaluation at most; the last evaluation takes all."""
    early_stopping: int | None = None
    """End after so many evaluations in a row without a lower validation loss; keep best then."""
    log_every: int = 10
    """Steps between two lines to the trackers."""
    loss_spike: float = 3.0
    """Skip an update whose loss is more than this above its moving average."""
    max_skipped: int = 10
    """End after so many updates in a row that were skipped for a loss spike or a value that is not finite."""
    seed: int = 0
    """Of the weights and of dropout."""
    progress: bool = True
    """Show a progress bar, what the run is about to do, and a line at every evaluation."""

    def __post_init__(self) -> None:
        check_fields(self)
        limits = ("eval_every", "eval_batches", "early_stopping", "log_every", "loss_spike", "max_skipped")
        for name in limits:
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
