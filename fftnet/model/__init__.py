"""The modules: components, mixers, the layer and the model. No files, no printing."""
