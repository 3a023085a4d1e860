"""Functions of the package: load, train, evaluate, predict and generate."""
