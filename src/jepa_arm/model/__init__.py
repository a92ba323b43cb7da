"""The world model: encoder, action-conditioned predictor, SIGReg, probes, checkpoint."""
