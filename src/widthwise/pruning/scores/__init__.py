"""Scores: how important each feature, or each weight, is."""
