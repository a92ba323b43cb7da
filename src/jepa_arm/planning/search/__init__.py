"""Searches for action sequences: local search, actor only, CEM, iCEM and MPPI."""
