"""Images with classes: from files and arrays to normalised batches; ``loading`` is the place to start."""
