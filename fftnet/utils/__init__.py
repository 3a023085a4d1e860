"""The porch: tokenizer, data set and trainer where readers of the paper's code look for them.

Three files, and never a fourth: what is behind them lives in ``fftnet.data`` and ``fftnet.training``.
"""
