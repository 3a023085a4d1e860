"""Real text: found, read piece by piece, tokenized once into a file, and cut into windows."""
