"""The command ``fftnet``, also as ``python -m fftnet``, which launchers of many processes start."""

import sys


def main() -> None:
    """Run the command line; end in a sentence where packages that it needs are not installed."""
    try:
        from fftnet.cli.main import main as run
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is not installed: the commands need pip install 'fftnet[all]'")
    sys.exit(run())


if __name__ == "__main__":
    main()
