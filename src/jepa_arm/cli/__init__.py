"""Command line of ``jepa-arm``: one module per group of verbs; each verb imports what it needs."""
