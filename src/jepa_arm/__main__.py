"""Entry point of ``python -m jepa_arm``, the same as the command ``jepa-arm``."""

import sys

from jepa_arm.cli.main import main

sys.exit(main())
