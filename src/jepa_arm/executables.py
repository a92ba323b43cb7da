"""What nodes' executables run.

A Ctrl-C while they import ends them without a traceback, and so does a module that is missing.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module

from .installation import lack


def sim() -> None:
    """The virtual arm."""
    _run('sim')


def guard() -> None:
    """The guard."""
    _run('guard')


def planner() -> None:
    """The planner."""
    _run('planner')


def view() -> None:
    """The graph in Rerun."""
    _run('rerun_view')


def _run(name: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the node has handlers of its own
    try:
        module = import_module(f'.nodes.{name}', __package__)
    except ModuleNotFoundError as error:
        print(f'{name}: {lack(error)}', file=sys.stderr)
        sys.exit(os.EX_CONFIG)
    module.main()
