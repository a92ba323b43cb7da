"""Hostile inputs on purpose, and judges of what comes out that share no code with the guard."""
