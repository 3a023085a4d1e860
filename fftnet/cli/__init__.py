"""The command line: flags over the functions of ``fftnet.api``."""
