"""Backends that run the networks of a plan: OpenVINO or torch."""
