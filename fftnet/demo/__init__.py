"""A static page that runs a causal model in the browser, on ONNX Runtime's build for the web.

``make_page`` writes it as a folder: the files in ``static``, the exported decode step, and the runtime.
"""

from fftnet.demo.config import DemoConfig
from fftnet.demo.errors import DemoError
from fftnet.demo.page import make_page

__all__ = ["DemoConfig", "DemoError", "make_page"]
