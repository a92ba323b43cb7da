"""Monitors: independent judges of command streams and of the processes of a running graph."""
