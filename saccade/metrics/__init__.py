"""Scores as plain functions of NumPy arrays: no model, no batch, no Keras."""
