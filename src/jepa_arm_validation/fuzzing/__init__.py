"""Fuzzing: hostile inputs to the guard and the graph, judged without any code of the guard."""
