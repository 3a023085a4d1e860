"""From sources to batches, downhill: sources (a table), chunks, splits (one rule), tokenization (in memory or
once into a file of the cache), split views, windows. Beside them the synthetic language and the encodings."""
