"""Other people's weights: finding them, reading them, and writing them back under their names."""
