"""ROS domains that nobody on this machine uses. Imports no rclpy, which reads the domain once."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

DOMAINS = range(20, 100)
"""Ids to choose from: free of common ones and of ports for clients."""


def free_domain() -> int:
    """A ROS domain id on which no process of this machine listens.

    Raises:
        RuntimeError: there is none.
    """
    first = os.getpid() % len(DOMAINS)
    for domain in (*DOMAINS[first:], *DOMAINS[:first]):
        if _is_free(domain):
            return domain
    raise RuntimeError(f'ROS domains {DOMAINS.start} to {DOMAINS.stop - 1} are all in use here')


@contextmanager
def own_domain() -> Iterator[int]:
    """Sets ROS_DOMAIN_ID to one that nobody on this machine uses, for this and new processes."""
    before = os.environ.get('ROS_DOMAIN_ID')
    domain = free_domain()
    os.environ['ROS_DOMAIN_ID'] = str(domain)
    try:
        yield domain
    finally:
        del os.environ['ROS_DOMAIN_ID']
        if before is not None:
            os.environ['ROS_DOMAIN_ID'] = before


def _is_free(domain: int) -> bool:
    """Whether no process listens where the first participant of a domain would."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(('', 7400 + 250 * domain + 10))
        except OSError:
            return False
    return True
