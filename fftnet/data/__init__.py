"""From sources to batches: sources (a table), splits (one rule), tokens, the token cache, windows.

Generated samples, labelled texts, images and the encodings of tokenizers are here too. Data that can't be
read or used end in a ``DataError``, tokenizers in a ``TokenizerError``. The message names the file, the line
or row, and what to do.
"""
