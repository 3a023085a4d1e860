"""From sources to batches: sources (a table), splits (one rule), tokens, the token cache, batches of windows.

Generated samples, labelled texts, images and the encodings of tokenizers are here too.
"""
