"""``python -m fftnet``, which launchers of many processes start."""

import sys

from fftnet.cli.main import main

sys.exit(main())
