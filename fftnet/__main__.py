"""``python -m fftnet``, which launchers of many processes start."""

import sys

from fftnet.cli import main

sys.exit(main())
