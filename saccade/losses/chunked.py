"""Contrastive losses of large batches, column block by column block: memory grows linearly with the batch.

A similarity matrix of B images and C texts, its softmaxes and their gradients are B x C numbers each. Here
only B x chunk exist at a time; the backward pass computes the blocks again, from what the forward pass kept:
B + C numbers. Values and gradients are those of `saccade.losses.info_nce` and `siglip_loss`.
"""

from keras import ops


def chunked_info_nce(images, texts, scale, chunk: int = 1024):
    """`info_nce(scale * images @ texts.T)`.

    Args:
        images: float32 (B, E).  texts: float32 (C, E), C >= B; text i belongs to image i.
        scale: float32 scalar.  chunk: texts whose similarities exist at once.
    Returns: float32 (B,).
    Source: the blockwise log-sum-exp of FlashAttention, section 3.1, arXiv:2205.14135; for this loss
        Inf-CL, arXiv:2410.17243.
    """
    rows, count = images.shape[0], texts.shape[0]

    @ops.custom_gradient
    def loss(images, texts, scale):
        def read(across, cosine, _, columns):
            logits = scale * cosine
            kept = ops.where(columns < count, logits, -1e30)
            return ops.logaddexp(across, ops.logsumexp(kept, axis=1)), ops.logsumexp(logits, axis=0)

        start = ops.full((rows,), -1e30, dtype="float32")
        across, down = _scan(read, start, images, texts, chunk)
        own = scale * ops.sum(images * texts[:rows], axis=-1)

        def gradient(*args, upstream=None):
            given = args[0] if upstream is None else upstream

            def slope(cosine, columns, own):
                logits = scale * cosine
                by_row = ops.exp(ops.where(columns < count, logits, -1e30) - across[:, None])
                by_column = ops.exp(logits - ops.take(down, columns, axis=0))
                there = ops.take(ops.pad(given, [[0, down.shape[0] - rows]]), columns, axis=0)
                return (by_row * given[:, None] + by_column * there) / 2 - own * given[:, None]

            return _pull_back(slope, images, texts, scale, chunk)[:3]

        return (across + down[:rows]) / 2 - own, gradient

    return loss(images, texts, ops.convert_to_tensor(scale, "float32"))


def chunked_siglip_loss(images, texts, scale, bias=0.0, chunk: int = 1024):
    """`siglip_loss(scale * images @ texts.T, bias)`.

    Args: bias: float32 scalar.  The rest is as in `chunked_info_nce`.
    Returns: float32 (B,).
    Source: Sigmoid Loss for Language Image Pre-Training, section 3.3, arXiv:2303.15343 (blocks on devices).
    """
    rows, count = images.shape[0], texts.shape[0]

    @ops.custom_gradient
    def loss(images, texts, scale, bias):
        def read(total, cosine, _, columns):
            logits = scale * cosine + bias
            terms = ops.softplus(ops.where(_own(rows, columns), -logits, logits))
            return total + ops.sum(ops.where(columns < count, terms, 0.0), axis=1), columns

        total, _ = _scan(read, ops.zeros((rows,), "float32"), images, texts, chunk)

        def gradient(*args, upstream=None):
            given = args[0] if upstream is None else upstream

            def slope(cosine, columns, own):
                share = ops.sigmoid(scale * cosine + bias) - own
                return ops.where(columns < count, share, 0.0) * given[:, None]

            return _pull_back(slope, images, texts, scale, chunk)

        return total, gradient

    scale, bias = (ops.convert_to_tensor(value, "float32") for value in (scale, bias))
    return loss(images, texts, scale, bias)


def hardest(images, texts, chunk: int = 1024, groups=None):
    """For each image, the text that is most alike and yet no match of it; no gradient.

    `hard_negatives` of the whole matrix, in blocks. Exchange the two for the images that are most alike to
    each text.

    Args:
        images: float32 (B, E).  texts: float32 (C, E), C >= B; text i belongs to image i.
        chunk: texts whose similarities exist at once.
        groups: int32 (C,); texts of one number say the same and match each other's images. None = all differ.
            (Vectors that are alike are no sign of that: those of hard negatives are, until they are learnt.)
    Returns: index int32 (B,); found bool (B,), False where every text is a match.
    """
    rows, count = images.shape[0], texts.shape[0]
    images, texts = (ops.stop_gradient(ops.convert_to_tensor(v)) for v in (images, texts))

    def read(best, cosine, _, columns):
        barred = ops.logical_or(_own(rows, columns), columns >= count)
        if groups is not None:
            there = ops.take(groups, ops.minimum(columns, count - 1), axis=0)
            barred = ops.logical_or(barred, ops.equal(groups[:rows, None], there))
        cosine = ops.where(barred, -1e30, cosine)
        value, index = ops.max(cosine, axis=1), ops.take(columns, ops.argmax(cosine, axis=1), axis=0)
        better = value > best[0]
        return (ops.where(better, value, best[0]), ops.where(better, index, best[1])), columns

    start = ops.full((rows,), -1e30, dtype="float32"), ops.zeros((rows,), "int32")
    (value, index), _ = _scan(read, start, images, texts, chunk)
    return index, value > -1e29


def _own(rows: int, columns):
    """bool (B, c): where a block holds an image and its own text."""
    return ops.equal(ops.expand_dims(ops.arange(rows, dtype="int32"), 1), columns)


def _scan(step, carry, images, texts, chunk: int):
    """step(carry, cosine (B, c), texts (c, E), columns int32 (c,)) -> carry, (c, ...), block after block.

    Returns: the last carry; what each block gave, joined, the columns beyond C included.
    """
    count = texts.shape[0]
    chunk = min(chunk, count)
    blocks = -(-count // chunk)
    padded = ops.pad(texts, [[0, blocks * chunk - count], [0, 0]])
    columns = ops.reshape(ops.arange(blocks * chunk, dtype="int32"), (blocks, chunk))

    def body(carry, block):
        part, at = block
        return step(carry, ops.matmul(images, ops.transpose(part)), part, at)

    carry, given = ops.scan(body, carry, (ops.reshape(padded, (blocks, chunk, texts.shape[1])), columns))
    return carry, ops.reshape(given, (blocks * chunk, *given.shape[2:]))


def _pull_back(slope, images, texts, scale, chunk: int):
    """Gradients by images, texts, scale, bias; `slope(cosine, columns, own)` is that by a block's logits."""

    def read(sums, cosine, part, columns):
        by_logits = slope(cosine, columns, ops.cast(_own(images.shape[0], columns), "float32"))
        by_images, by_scale, by_bias = sums
        sums = (
            by_images + scale * ops.matmul(by_logits, part),
            by_scale + ops.sum(by_logits * cosine),
            by_bias + ops.sum(by_logits),
        )
        return sums, scale * ops.matmul(ops.transpose(by_logits), images)

    start = ops.zeros_like(images), ops.zeros((), "float32"), ops.zeros((), "float32")
    (by_images, by_scale, by_bias), by_texts = _scan(read, start, images, texts, chunk)
    return by_images, by_texts[: texts.shape[0]], by_scale, by_bias
