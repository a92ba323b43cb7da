"""JEPA world-model control for robot arms: observe, encode, predict, plan, guard, act."""

__version__ = '0.1.0'
