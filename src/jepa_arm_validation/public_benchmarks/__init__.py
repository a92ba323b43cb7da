"""Public benchmarks: our model and planner on the environments that world models publish with.

``jepa-arm bench public --env tworoom`` collects data with the environment's own policy, trains,
and evaluates on held-out episodes. Needs the extra ``public``.
"""
