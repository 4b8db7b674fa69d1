"""Data: NumPy in, NumPy out. Nothing here imports Keras."""
