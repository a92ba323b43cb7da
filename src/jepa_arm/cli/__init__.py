"""Command line of ``jepa-arm``: one module per group of verbs; verbs import what they need."""
