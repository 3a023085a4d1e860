"""Averages over data: of any objective over batches, and of a language model over whole documents."""
