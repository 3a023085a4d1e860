"""Pure functions of tensors: the only place that casts dtypes, pads, or picks a backend.

Shape letters used throughout: B batch, T tokens, D model width, H heads, d = D // H channels a head,
F frequency bins, K anchor frequencies, V vocabulary.
"""
