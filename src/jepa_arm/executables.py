"""What nodes' executables run: a Ctrl-C while they import ends them without a traceback."""

from __future__ import annotations

import signal


def sim() -> None:
    """The virtual arm."""
    _end_at_once()
    from .nodes.sim import main

    main()


def guard() -> None:
    """The guard."""
    _end_at_once()
    from .nodes.guard import main

    main()


def planner() -> None:
    """The planner."""
    _end_at_once()
    from .nodes.planner import main

    main()


def _end_at_once() -> None:
    """Until the node has handlers of its own."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
