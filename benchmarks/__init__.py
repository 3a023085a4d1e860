"""Measurements against the obvious PyTorch version, attention and bare limits (``make bench``)."""
