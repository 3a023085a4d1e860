"""Train a model: ``python main.py --d_model 128 --num_layers 4 --num_epochs 30 --save_model``."""

import sys

from fftnet.cli.main import console

if __name__ == "__main__":
    console(["train", *sys.argv[1:]])
