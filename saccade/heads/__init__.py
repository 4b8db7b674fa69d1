"""Task heads: tensors in, dictionaries of tensors out."""
