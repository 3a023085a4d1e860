"""Write text with the newest trained model: ``python example.py --prompt "..."``."""

import sys

from fftnet.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
