"""Metrics of any objective, and plots of them; tasks and the trainer import this package."""
