"""Entry points to text, data and training; the packages ``data`` and ``training`` do the work."""
