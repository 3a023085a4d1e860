"""Loading and measuring trained models from Python; training is in :mod:`fftnet.run`, writing in :mod:`fftnet.generation`."""
