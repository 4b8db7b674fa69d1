"""Building blocks shared by every model: attention, blocks, embeddings, pooling, normalisation."""
