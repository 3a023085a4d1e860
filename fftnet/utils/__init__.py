"""The three front doors that scripts of the paper know: tokenizer, data set and trainer; what is behind them lives in
``fftnet.data`` and ``fftnet.training``, and nothing else moves in here."""
