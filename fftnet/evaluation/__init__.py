"""Language models on whole documents, and inspection of what mixers do with a text."""
