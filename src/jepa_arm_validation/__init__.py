"""Validation: faults, fuzzing, soak tests and comparisons, which a robot never imports."""
