"""Data from sources to batches.

Data that can't be read or used end in a ``DataError``, tokenizers in a ``TokenizerError``.
"""
