"""Fault table: injects every fault into the running graph, measures and judges the reaction."""
