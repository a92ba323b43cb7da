"""Our compact model and planner on the environments that world models are published with.

``python -m benchmarks.public --env tworoom`` collects data with the package's own policy, trains,
and evaluates on held-out episodes; see docs/results.md, "Public benchmarks". Needs the extra
``public``.
"""
