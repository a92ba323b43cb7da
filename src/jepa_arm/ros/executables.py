"""Entry points of the installed executables.

They end without a traceback on Ctrl-C during imports, and if a module is missing.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from importlib import import_module

from jepa_arm.core.installation import describe_missing_module


def _run(name: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the node has handlers of its own
    try:
        module = import_module(f'jepa_arm.ros.{name}')
    except ModuleNotFoundError as error:
        print(f'{name.partition(".")[0]}: {describe_missing_module(error)}', file=sys.stderr)
        sys.exit(os.EX_CONFIG)
    module.main()


sim = partial(_run, 'sim.node')
"""Run the virtual arm."""
guard = partial(_run, 'guard.node')
"""Run the guard."""
planner = partial(_run, 'planner.node')
"""Run the planner."""
view = partial(_run, 'tools.viewer')
"""Run the viewer in Rerun."""
