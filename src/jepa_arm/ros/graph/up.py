"""Run a graph in the foreground: ``jepa-arm up``."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from jepa_arm.ros.runtime.environment import discovery_range
from jepa_arm.ros.runtime.node_contract import GraphError

from .description import NodeSpec
from .supervisor import Supervisor


def run_until_interrupted(specs: Sequence[NodeSpec], namespace: str = '') -> int:
    """Run the nodes until Ctrl-C and return the exit code.

    A planner that ends is restarted, inactive. If the simulator or the guard ends, all nodes are
    ended: without them nothing may move.
    """
    # a script starts its background jobs with SIGINT ignored
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    supervisor = Supervisor(specs, namespace)
    print(f'starting {", ".join(s.name for s in specs)}; output: {supervisor.log_dir}')
    domain = os.environ.get('ROS_DOMAIN_ID', '0')
    print(f'ROS domain {domain}, discovery range {discovery_range()}')
    is_ready = False
    try:
        with supervisor:
            supervisor.wait_ready()
            is_ready = True
            action = 'publish on planner/joint_trajectory'
            if any(spec.name == 'planner' for spec in specs):
                action = 'send a goal to the action move_to_goal'
            print(f'ready: {action}. Ctrl-C ends all.', flush=True)
            return _watch(supervisor, namespace)
    except KeyboardInterrupt:
        if not is_ready:
            return 0  # exit codes mean nothing: a node that still imports has no handlers
        return max((abs(code) for code in supervisor.exit_codes.values()), default=0)
    except GraphError as error:
        print(f'jepa-arm up: {error}', file=sys.stderr)
        return 1


def _watch(supervisor: Supervisor, namespace: str) -> int:
    """Restart nodes that end; return 1 when one ends that must not be restarted."""
    space = f'/{namespace.strip("/")}'.rstrip('/')
    while True:
        name = str(supervisor.wait_ended())
        code = supervisor.exit_codes[name]
        print(supervisor.tail(name))
        if not supervisor.respawn(name):
            print(f'{name} ended with {code}; ending the others')
            return 1
        print(
            f'{name} ended with {code}; it runs again, inactive: activate it when the cause is '
            f'known (ros2 lifecycle set {space}/{name} activate)',
            flush=True,
        )
