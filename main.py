"""Train a model: ``python main.py --d_model 128 --num_layers 4 --num_epochs 30 --save_model``."""

import sys

from fftnet.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
