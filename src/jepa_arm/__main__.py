"""``python -m jepa_arm`` is ``jepa-arm``."""

import sys

from .cli import main

sys.exit(main())
