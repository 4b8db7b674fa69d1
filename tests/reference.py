"""Short NumPy references in float64, written from the papers' formulas, not from the code under test.

`w` is what `weights` returns: variable path -> array.
"""

import numpy as np
from keras import ops


def randomize(layer, seed: int = 0):
    """Give every variable random values: zero biases and unit scales hide errors. Returns the layer."""
    rng = np.random.default_rng(seed)
    for variable in layer.variables:
        if "float" not in str(variable.dtype):
            continue
        shape = tuple(variable.shape)
        spread = np.prod(shape[:-1]) ** -0.5 if len(shape) > 1 else 0.5
        value = rng.normal(size=shape) * spread
        variable.assign(value + 1 if variable.name in ("gamma", "scale") else value)
    return layer


def weights(layer) -> dict[str, np.ndarray]:
    """Variables by their path within the layer."""
    outer = f"{layer.name}/"
    return {v.path.removeprefix(outer): to_numpy(v).astype(np.float64) for v in layer.variables}


def to_numpy(tensor) -> np.ndarray:
    value = getattr(tensor, "value", tensor)  # NumPy warns about a Keras variable
    return np.asarray(ops.convert_to_numpy(value))


def part(w: dict, prefix: str) -> dict:
    """The weights of one sublayer."""
    found = {k.removeprefix(f"{prefix}/"): v for k, v in w.items() if k.startswith(f"{prefix}/")}
    assert found, f"no weights under {prefix}: {sorted(w)}"
    return found


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def rms(x, epsilon=1e-5):
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + epsilon)


def layer_norm(w, x, epsilon=1e-6):
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + epsilon) * w["gamma"] + w["beta"]


def dense(w, x):
    return x @ w["kernel"] + w.get("bias", 0)


def turned(vectors, table):
    """(..., T, E) by cosines and sines (T, E / 2): pair i is (x_i, x_{i + E/2}), a complex number."""
    half = vectors.shape[-1] // 2
    z = (vectors[..., :half] + 1j * vectors[..., half:]) * (table[0] + 1j * table[1])
    return np.concatenate([z.real, z.imag], -1)


def attention(w, x, memory=None, mask=None, num_heads=1, qk_norm=False, table=None):
    """Head by head and row by row. `table`: turns queries and keys. Returns (result, scores (B, A, T, M))."""
    norm = rms if qk_norm else lambda vectors: vectors
    memory = x if memory is None else memory
    dim = x.shape[-1]
    head_dim = dim // num_heads
    queries, both = dense(part(w, "query"), x), dense(part(w, "key_value"), memory)
    keys, values = both[..., :dim], both[..., dim:]
    mask = np.broadcast_to(True if mask is None else mask, (len(x), x.shape[1], memory.shape[1]))
    mixed = np.zeros_like(queries)
    scores = np.zeros((len(x), num_heads, x.shape[1], memory.shape[1]))
    for b in range(len(x)):
        for a in range(num_heads):
            own = slice(a * head_dim, (a + 1) * head_dim)
            for t in range(x.shape[1]):
                keep = mask[b, t]
                if keep.any():
                    key, query = norm(keys[b, :, own]), norm(queries[b, :, own])
                    if table is not None:
                        key, query = turned(key, table), turned(query, table)
                    logits = key[keep] @ query[t] / np.sqrt(head_dim)
                    scores[b, a, t, keep] = softmax(logits)
                mixed[b, t, own] = scores[b, a, t] @ values[b, :, own]
    return dense(part(w, "output"), mixed), scores


def swiglu(w, x):
    hidden = dense(part(w, "gate_up"), x)
    half = hidden.shape[-1] // 2
    return dense(part(w, "down"), silu(hidden[..., :half]) * hidden[..., half:])


def mlp(w, x):
    return dense(part(w, "down"), gelu_tanh(dense(part(w, "up"), x)))


def encoder_block(w, x, mask=None, num_heads=1):
    x = (
        x
        + attention(part(w, "attention"), layer_norm(part(w, "attention_norm"), x), None, mask, num_heads)[0]
    )
    return x + mlp(part(w, "mlp"), layer_norm(part(w, "mlp_norm"), x))


def rms_norm(w, x):
    return rms(x) * w["scale"]


def decoder_block(w, x, memory, self_mask, memory_mask, num_heads):
    normed = rms_norm(part(w, "self_norm"), x)
    x = x + attention(part(w, "self_attention"), normed, None, self_mask, num_heads)[0]
    normed = rms_norm(part(w, "cross_norm"), x)
    x = x + attention(part(w, "cross_attention"), normed, memory, memory_mask, num_heads)[0]
    return x + swiglu(part(w, "mlp"), rms_norm(part(w, "mlp_norm"), x))


def cross_modal_block(w, z, padding_mask, vision, text, num_heads, cross=True, table=None):
    mask = padding_mask[:, None]
    z = rms(z + attention(part(w, "self_attention"), z, None, mask, num_heads, True, table)[0])
    if cross:
        seen, said = z[:, vision].copy(), z[:, text].copy()
        to_text = attention(part(w, "vision_reads_text"), seen, said, mask[..., text], num_heads, True)[0]
        to_vision = attention(part(w, "text_reads_vision"), said, seen, mask[..., vision], num_heads, True)[0]
        z = z.copy()
        z[:, vision], z[:, text] = rms(seen + to_text), rms(said + to_vision)
    return rms(z + swiglu(part(w, "mlp"), z))


def convolution(w, x, stride):
    """ "same" padding as Keras does it, or none where the stride is the kernel."""
    kernel = w["kernel"]
    size = kernel.shape[0]
    out = [-(-side // stride) for side in x.shape[1:3]]
    pads = [max((o - 1) * stride + size - side, 0) for o, side in zip(out, x.shape[1:3], strict=True)]
    x = np.pad(x, [(0, 0), *((p // 2, p - p // 2) for p in pads), (0, 0)])
    result = np.zeros((len(x), *out, kernel.shape[-1]))
    for row in range(out[0]):
        for column in range(out[1]):
            window = x[:, row * stride : row * stride + size, column * stride : column * stride + size]
            result[:, row, column] = np.einsum("bijc,ijco->bo", window, kernel)
    return result + w["bias"]


def log_softmax(x, axis=-1):
    return np.log(softmax(x, axis))
