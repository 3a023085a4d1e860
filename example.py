"""Write text with the newest trained model: ``python example.py --prompt "..."``."""

import sys

try:
    from fftnet.cli.main import main
except ModuleNotFoundError as error:
    sys.exit(
        f"error: {error.name} is not installed: run `make demo` once, then .venv/bin/python example.py; "
        "or pip install '.[all]'"
    )

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
