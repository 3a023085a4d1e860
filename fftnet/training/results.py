"""Results of a run for people to read, beside its checkpoints: metrics.json and a picture of the losses."""

from pathlib import Path

import torch

from fftnet import serialization
from fftnet.metrics.plots import plot_losses
from fftnet.training.callbacks import RunMetadata
from fftnet.training.distributed import Distributed
from fftnet.training.run_folder import METRICS_FILE, PLOT_FILE
from fftnet.training.state import TrainingState


def write_results(
    folder: Path, state: TrainingState, metadata: RunMetadata, distributed: Distributed, unit: str
) -> None:
    """Write the history of a run, with its last and best evaluation, as JSON and as a picture.

    Args:
        folder: of the run.
        state: with at least one evaluation.
        metadata: what was known of the run before it started.
        distributed: the processes, with the model.
        unit: what is counted.

    Raises:
        CheckpointError: naming the file that can't be written.
    """
    values = {
        "final": state.history[-1],
        "best": state.best,
        "entropy_floor": metadata.entropy_floor,
        "parameters": sum(parameter.numel() for parameter in distributed.model.parameters()),
        "tokens": state.counters.targets,
        "seconds": state.counters.seconds,
        "processes": distributed.world,
        "threads": torch.get_num_threads(),
        "precision": distributed.precision,
        "history": state.history,
    }
    serialization.write_json(folder / METRICS_FILE, values)
    plot = folder / PLOT_FILE
    with serialization.writing(plot):
        plot_losses(state.history, metadata.entropy_floor, plot, unit, state.logged)
