"""Command line of ``jepa-arm``: one module a group of verbs, which imports when a verb runs."""
