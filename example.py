"""Write text with the newest trained model: ``python example.py --prompt "..."``."""

import sys

from fftnet.cli.main import console

if __name__ == "__main__":
    console(["generate", *sys.argv[1:]])
