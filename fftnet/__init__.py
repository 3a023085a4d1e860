"""FFTNet: token mixing by an adaptive spectral filter in place of self-attention."""
