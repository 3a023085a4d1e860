"""Benchmarks of time and memory against eager PyTorch, attention and lower bounds (``make bench``)."""
