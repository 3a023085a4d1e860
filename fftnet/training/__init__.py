"""The parts of the trainer: processes, budget, optimizer, checkpoints, signals; no model and no data."""
