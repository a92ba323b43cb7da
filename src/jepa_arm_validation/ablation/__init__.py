"""Ablation: variants of the world model, trained and measured alike."""
