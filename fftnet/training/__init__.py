"""What the trainer runs on: processes, budget, optimizer, checkpoints, signals; no model and no data."""
