"""Evaluation: episodes in process, the strict protocol, reports, replay and benchmarks."""
