"""``python -m jepa_arm`` is ``jepa-arm``."""

import sys

from jepa_arm.cli.main import main

sys.exit(main())
