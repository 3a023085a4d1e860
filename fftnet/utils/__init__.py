"""The three front doors of training on text: tokenizer, dataset and trainer.

Nothing else comes in here: what serves only one of them has its home in ``data`` or in ``training``.
"""
