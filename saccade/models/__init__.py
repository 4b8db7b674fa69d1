"""One file a model, with its config and presets beside the class."""
