"""Tools beside a running graph: recorder, viewer and checks."""
