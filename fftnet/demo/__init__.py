"""A static page that runs a causal model in the browser, in ONNX Runtime's build for the web.

``make_page`` writes a folder with the files in ``static``, the exported decode step and the runtime.
"""

from fftnet.demo.config import DemoConfig, DemoError
from fftnet.demo.page import make_page

__all__ = ["DemoConfig", "DemoError", "make_page"]
