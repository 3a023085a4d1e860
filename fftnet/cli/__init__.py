"""The command line: flags over the functions of :mod:`fftnet.api`."""
