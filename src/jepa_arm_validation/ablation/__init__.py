"""Ablation: variants of the world model, trained and measured under equal conditions."""
