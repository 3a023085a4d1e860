"""``python -m fftnet``, which launchers of many processes start."""

from fftnet.cli.main import console

console()
