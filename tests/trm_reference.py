"""TRM and HRM in NumPy float64, from the papers' equations; gradients by central differences.

`w`: variable path -> array, as `reference.weights` gives it.
"""

import numpy as np
from reference import dense, gelu_tanh, part, sigmoid, silu, softmax


def rms(x, axis=-1):
    return x / np.sqrt((x * x).mean(axis, keepdims=True) + 1e-5)


def layer(x, axis=-1):
    return rms(x - x.mean(axis, keepdims=True), axis)


def rotated(x, theta):
    """RoPE of (T, E), one head: pair i is (x_i, x_{i + E/2}), turned by t * theta^(-2i / E)."""
    length, width = x.shape
    half = width // 2
    out = np.empty_like(x)
    for t in range(length):
        for i in range(half):
            angle = t * theta ** (-2 * i / width)
            a, b = x[t, i], x[t, i + half]
            out[t, i] = a * np.cos(angle) - b * np.sin(angle)
            out[t, i + half] = a * np.sin(angle) + b * np.cos(angle)
    return out


def attention(w, x, heads, theta):
    result = np.zeros_like(x)
    width = x.shape[-1] // heads
    for b in range(len(x)):
        q, kv = x[b] @ w["query/kernel"], x[b] @ w["key_value/kernel"]
        k, v = np.split(kv, 2, axis=-1)
        mixed = []
        for a in range(heads):
            own = slice(a * width, (a + 1) * width)
            qa, ka = q[:, own], k[:, own]
            if theta is not None:
                qa, ka = rotated(qa, theta), rotated(ka, theta)
            mixed.append(softmax(qa @ ka.T / np.sqrt(width)) @ v[:, own])
        result[b] = np.concatenate(mixed, -1) @ w["output/kernel"]
    return result


def ffn(w, x, kind):
    if kind == "gelu":
        return dense(part(w, "down"), gelu_tanh(dense(part(w, "up"), x)))
    gate, up = np.split(x @ w["gate_up/kernel"], 2, axis=-1)
    hidden = sigmoid(gate) * rms(gate * up) if kind == "gated_norm" else silu(gate) * up
    return hidden @ w["down/kernel"]


def units(w, x, kind, c):
    """Every token hears, through its rows of `down`, the mean over its unit of that unit's channels."""
    gate, up = np.split(x @ w["gate_up/kernel"], 2, axis=-1)
    told = sigmoid(gate) * rms(gate * up) if kind == "gated_norm" else silu(gate) * up
    box, digits = c.box, c.digits
    parts = np.split(told, 4 if digits == 1 else 5, axis=-1)
    places = [(i // (box * box), i % (box * box), d) for i in range(box**4) for d in range(digits)]
    heard = [np.zeros_like(part) for part in parts]
    heard[-1][:] = parts[-1].mean(1, keepdims=True)
    for i, (row, column, digit) in enumerate(places):
        same = [
            [(r, d) == (row, digit) for r, _, d in places],
            [(k, d) == (column, digit) for _, k, d in places],
            [(r // box, k // box, d) == (row // box, column // box, digit) for r, k, d in places],
            [(r, k) == (row, column) for r, k, _ in places],
        ]
        for own, unit, mine in zip(heard[:-1], parts[:-1], same, strict=False):
            tokens = c.prefix_tokens + np.flatnonzero(mine)
            own[:, c.prefix_tokens + i] = unit[:, tokens].mean(1)
    return np.concatenate(heard, -1) @ w["down/kernel"]


def neighbours(w, x, kind, c):
    """Every token hears the cells above, below, left and right of it, and the mean over all."""
    gate, up = np.split(x @ w["gate_up/kernel"], 2, axis=-1)
    told = sigmoid(gate) * rms(gate * up) if kind == "gated_norm" else silu(gate) * up
    side = round(c.seq_len**0.5)
    parts = np.split(told, 5, axis=-1)
    heard = [np.zeros_like(part) for part in parts]
    heard[-1][:] = parts[-1].mean(1, keepdims=True)
    for row in range(side):
        for column in range(side):
            ways = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
            for own, said, (r, k) in zip(heard[:-1], parts[:-1], ways, strict=True):
                if 0 <= r < side and 0 <= k < side:
                    own[:, c.prefix_tokens + row * side + column] = said[:, c.prefix_tokens + r * side + k]
    return np.concatenate(heard, -1) @ w["down/kernel"]


def block(w, c, z):
    norm = {"rms": rms, "layer": layer}[c.norm_type]
    if c.mixer == "mlp_t":
        norm_axis = 1

        def mix(z):
            return ffn(part(w, "mlp_t"), z.swapaxes(1, 2), c.ffn).swapaxes(1, 2)
    elif c.mixer in ("units", "candidates"):
        norm_axis = -1

        def mix(z):
            return units(part(w, "units"), z, c.ffn, c)
    elif c.mixer == "neighbours":
        norm_axis = -1

        def mix(z):
            return neighbours(part(w, "neighbours"), z, c.ffn, c)
    else:
        norm_axis = -1
        theta = c.rope_theta if c.positions == "rope" else None

        def mix(z):
            return attention(part(w, "attention"), z, c.num_heads, theta)

    def channels(z):
        return ffn(part(w, "mlp"), z, c.ffn)

    for function, axis in ((mix, norm_axis), (channels, -1)):
        z = norm(z + function(z), axis) if c.norm_position == "post" else z + function(norm(z, axis))
    return z


def net(w, c, level, z):
    name = "net" if not c.h_layers else level
    depth = c.h_layers if level == "high" and c.h_layers else c.l_layers
    for i in range(depth):
        z = block(part(w, f"core/{name}/block_{i}"), c, z)
    return z


def encode(w, c, tokens, puzzle):
    if c.mixer == "candidates":  # what each cell says to each of its digits: blank, this one, another
        digit = np.arange(1, c.digits + 1)
        given = tokens[:, :, None]
        tokens = np.where(given == 0, 0, np.where(given == digit, 1, 2)).reshape(len(tokens), -1)
    x = w["token_table"][tokens]
    prefix = np.zeros((len(x), c.prefix_tokens, c.dim))
    if c.num_puzzles:
        prefix[:, 0] = w["puzzle_table"][puzzle]
    x = np.concatenate([prefix, x], axis=1)
    if c.mixer == "attention" and c.positions == "learned":
        x = (x + w["position_table"]) / np.sqrt(2)
    return x * np.sqrt(c.dim)


def first(w, c, x):
    return w["initial_h"] + 0 * x, w["initial_l"][0] + 0 * x


def step(w, c, z_h, z_l, x, fixed=None):
    """One reasoning step. `fixed`: (w, x) of everything that carries no gradient; None = the same.

    Returns: z_h, z_l, logits (B, L, V), q (B, 1 or 2).
    """
    w0, x0 = fixed or (w, x)
    calls = [(h, i) for h in range(c.h_cycles) for i in range(c.l_cycles)]
    for h, i in calls:
        learns = (h, i) == calls[-1] if c.one_step else h == c.h_cycles - 1
        own, given = (w, x) if learns else (w0, x0)
        z_l = net(own, c, "low", z_l + z_h + given)
        if i == c.l_cycles - 1:
            z_h = net(w if h == c.h_cycles - 1 else w0, c, "high", z_h + z_l)
    logits = dense(part(w, "output_head"), z_h[:, c.prefix_tokens :])
    if c.mixer == "candidates":
        logits = logits.reshape(len(x), c.seq_len, c.digits)
        logits = np.concatenate([np.zeros_like(logits[..., :1]), logits], -1)  # a blank has 0
    return z_h, z_l, logits, dense(part(w, "halting/linear"), z_h[:, 0])


def stablemax_loss(logits, targets):
    s = np.where(logits >= 0, logits + 1, 1 / (1 - np.minimum(logits, 0)))
    p = s / s.sum(-1, keepdims=True)
    return -np.log(np.take_along_axis(p, targets[..., None], -1)[..., 0])


def softmax_loss(logits, targets, smoothing):
    log_p = np.log(softmax(logits))
    one_hot = np.eye(logits.shape[-1])[targets]
    return -(((1 - smoothing) * one_hot + smoothing / logits.shape[-1]) * log_p).sum(-1)


def bce(q, target):
    return -(target * np.log(sigmoid(q)) + (1 - target) * np.log(1 - sigmoid(q)))


def loss(w, c, data, halt_weight=0.5, ponder=0.0, stablemax=True, smoothing=0.0, w0=None):
    """Loss of the first step of fresh puzzles; w0: the weights where no gradient flows."""
    w0 = w if w0 is None else w0
    x, x0 = (encode(v, c, data["tokens"], data["puzzle"]) for v in (w, w0))
    z_h, z_l = first(w, c, x) if c.h_cycles == 1 else first(w0, c, x0)
    z_h, z_l, logits, q = step(w, c, z_h, z_l, x, (w0, x0))
    cells = (
        stablemax_loss(logits, data["targets"])
        if stablemax
        else softmax_loss(logits, data["targets"], smoothing)
    )
    correct = (logits.argmax(-1) == data["targets"]).all(-1)
    q_loss = bce(q[:, 0], correct)
    if c.q_learning:
        fresh = first(w0, c, x0)
        after = step(w0, c, *step(w0, c, *fresh, x0)[:2], x0)[3]
        last = c.halt_max_steps <= 2
        q_loss = q_loss + bce(q[:, 1], sigmoid(after[:, 0] if last else after.max(-1)))
    total = np.mean(cells.mean(-1) + halt_weight * q_loss)
    return total + ponder * np.mean(1 - sigmoid(q[:, 0]))


def gradients(w, names, function, size=1e-5):
    """d function(w) / d w[name] by central differences, entry by entry."""
    found = {}
    for name in names:
        g = np.zeros_like(w[name])
        for place in np.ndindex(g.shape):
            moved = []
            for sign in (1, -1):
                other = {**w, name: w[name].copy()}
                other[name][place] += sign * size
                moved.append(function(other))
            g[place] = (moved[0] - moved[1]) / (2 * size)
        found[name] = g
    return found
