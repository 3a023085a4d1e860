"""Train a model: ``python main.py --d_model 128 --num_layers 4 --num_epochs 30 --save_model``."""

import sys

try:
    from fftnet.cli.main import main
except ModuleNotFoundError as error:
    sys.exit(
        f"error: {error.name} is not installed: run `make demo` once, then .venv/bin/python main.py; "
        "or pip install '.[all]'"
    )

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
