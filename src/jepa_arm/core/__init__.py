"""Core: values, goals, errors, files and checks that every other package builds on."""
