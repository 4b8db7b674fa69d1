"""Writing with an LSTM, over one vector of the image or over cells that each word looks at anew."""

import keras
from keras import ops

from saccade.data.text import BOS
from saccade.layers.cache import place, place_rows, slots_of
from saccade.layers.embeddings import lookup
from saccade.layers.normalization import softmax


class OpenForgetGates(keras.initializers.Initializer):
    """The bias of an LSTM's four gates: units that start to forget after 1, 2, ... `steps` steps, none else.

    With a bias of 1 for all, 2 % of what the image left would still be there after twelve words.

    Source: chrono initialisation, arXiv:1804.11188, equation 16, spread evenly and without its input gates,
        which would hardly take the image in.
    """

    def __init__(self, steps: int):
        self.steps = steps

    def __call__(self, shape, dtype=None):
        dim = shape[0] // 4
        forget = ops.log(ops.linspace(1.0, max(self.steps - 1.0, 1.0), dim))
        zeros = ops.zeros((dim,))
        return ops.cast(ops.concatenate([zeros, forget, zeros, zeros]), dtype or "float32")

    def get_config(self) -> dict:
        return {"steps": self.steps}


class RecurrentWriter(keras.layers.Layer):
    """What both writers share: reading words one after another, all of a text or one more with a cache.

    A subclass says what it keeps of the image (`prepare`), the state before <bos> (`start`), what the LSTM
    does with one word (`turn`) and how that becomes logits (`unembed`, of all words at once).

    The recurrence is float32 under any policy: its state is a sum over the whole text.

    Args:
        vocab_size: V.  dim: D, width of the state.  word_dim: E, of a word.  memory_dim: C, of a cell.
        max_new_tokens: most tokens it is asked to write.
    Call:
        tokens: int32 (B, T), starting with BOS.  memory: float (B, N, C), cells of the image.
        memory_mask: bool (B, N), True = keep; None = all.
        return_scores: also return what each word looked at.
    Returns: logits float32 (B, T, V); logits[:, t] predicts token t + 1; with `return_scores`, also float32
        (B, 1, T, N), or None for a writer that does not look again.
    """

    def __init__(
        self, vocab_size: int, dim: int, word_dim: int, memory_dim: int, max_new_tokens: int, **kwargs
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.vocab_size, self.dim, self.word_dim = vocab_size, dim, word_dim
        self.memory_dim, self.max_new_tokens = memory_dim, max_new_tokens
        # Keras's LSTMCell carries the state of a random generator, which no checkpoint could name twice.
        self.gates = keras.layers.Dense(
            4 * dim, bias_initializer=OpenForgetGates(max_new_tokens), name="gates"
        )
        self.output_projection = keras.layers.Dense(vocab_size, name="output")

    def build(self, input_shape=None):
        normal = keras.initializers.TruncatedNormal(stddev=1.0)
        self.table = self.add_weight((self.vocab_size, self.word_dim), normal, name="table")

    def call(self, tokens, memory, memory_mask=None, return_scores=False):
        seen = self.prepare(memory, memory_mask)
        logits, _, scores = self._read(tokens, self.start(seen), seen)
        return (logits, scores) if return_scores else logits

    def _read(self, tokens, state, seen):
        """Logits (B, T, V), the states after each token (B, T, 2, D), what it looked at (B, 1, T, N) or None.

        state: (B, 2, D), hidden and cell state before the first of `tokens`.
        """
        words = lookup(self.table, tokens)

        def turn(state, word):
            state, *made = self.turn(word, state, seen)
            return state, (state, *made)

        _, made = ops.scan(turn, state, ops.swapaxes(words, 0, 1))
        states, *made = [ops.swapaxes(tensor, 0, 1) for tensor in made]
        scores = ops.expand_dims(made[0], 1) if len(made) > 1 else None
        return self.unembed(words, states[:, :, 0], seen, *made[1:]), states, scores

    def prefill(self, memory, memory_mask, room: int):
        """Read BOS over `memory`; see `saccade.generate` for what prefill and step are.

        A slot of the cache holds the state after its token, so that a row can go back to any of them.
        """
        seen = self.prepare(memory, memory_mask)
        start = self.start(seen)
        batch = start.shape[0]
        later = ops.zeros((batch, 1 + room, 2, self.dim), "float32")
        cache = {
            "position": ops.ones((), "int32"),
            "memories": [ops.concatenate([ops.expand_dims(start, 1), later], axis=1)],
            "seen": seen,
        }
        logits, cache = self.step(ops.full((batch, 1), BOS, "int32"), cache)
        return logits[:, 0], cache

    def step(self, tokens, cache):
        """Read tokens int32 (B, T); returns logits float32 (B, T, V) and the cache."""
        position, memory = cache["position"], cache["memories"][0]
        before = ops.broadcast_to(slots_of(position - 1, 1), (memory.shape[0], 1))
        index = ops.broadcast_to(ops.reshape(before, (-1, 1, 1, 1)), (memory.shape[0], 1, 2, self.dim))
        state = ops.take_along_axis(memory, index, axis=1)[:, 0]
        logits, states, _ = self._read(tokens, state, cache["seen"])
        put = place_rows if len(position.shape) else place
        memories = [put(memory, states, position)]
        return logits, {**cache, "position": position + tokens.shape[1], "memories": memories}

    def _advance(self, inputs, state, more=0.0):
        """The LSTM: inputs float32 (B, I), state (B, 2, D) -> the next state; `more`: added to the gates."""
        gates = self.gates(ops.concatenate([inputs, state[:, 0]], axis=-1)) + more
        write, forget, content, show = ops.split(gates, 4, axis=-1)
        carried = ops.sigmoid(forget) * state[:, 1] + ops.sigmoid(write) * ops.tanh(content)
        return ops.stack([ops.sigmoid(show) * ops.tanh(carried), carried], axis=1)


class LSTMWriter(RecurrentWriter):
    """An LSTM that is shown one vector v of the image before the first word, and never again unless asked.

        v = norm(U sum_i gelu(V a_i + b) / sqrt(N) + c)

    over the N cells that are kept, with `cell_dim` numbers of each, many, so that some say "a red cube, on
    the left" and their sum says what there is. v enters by the gates; `gated`, it answers at the output too:

        logits = W_o [h, (A [h, Ey]) * (B v)]

    where the state and the last word Ey say what to look up; without it, the state must carry every answer.

    Args:
        cell_dim: above.  image_dim: of v.  each_word: the LSTM reads v with every word too.  gated: above.
        Others, call and returns: RecurrentWriter; the scores are None.
    Source: Show and Tell, section 3, arXiv:1411.4555, where `each_word` overfits a small data set; the
        product is the bilinear pooling of arXiv:1610.04325.
    """

    def __init__(self, *args, cell_dim: int, image_dim: int, each_word=False, gated=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.cell_dim, self.image_dim, self.each_word, self.gated = cell_dim, image_dim, each_word, gated
        self.features = keras.layers.Dense(cell_dim, activation="gelu", name="features")
        self.image = keras.layers.Dense(image_dim, name="image")
        self.norm = keras.layers.LayerNormalization(epsilon=1e-6, name="norm")
        self.image_gates = keras.layers.Dense(4 * self.dim, use_bias=False, name="image_gates")
        if gated:
            self.ask = keras.layers.Dense(image_dim, name="ask")
            self.tell = keras.layers.Dense(image_dim, name="tell")

    def build(self, input_shape=None):
        super().build()
        self.features.build((None, None, self.memory_dim))
        self.image.build((None, self.cell_dim))
        self.norm.build((None, self.image_dim))
        self.image_gates.build((None, self.image_dim))
        self.gates.build((None, self.word_dim + self.dim))
        told = 0
        if self.gated:
            told = self.image_dim
            self.ask.build((None, None, self.dim + self.word_dim))
            self.tell.build((None, self.image_dim))
        self.output_projection.build((None, None, self.dim + told))

    def prepare(self, memory, memory_mask):
        cells = self.features(ops.cast(memory, "float32"))
        number = cells.shape[1]
        if memory_mask is not None:
            cells = ops.where(ops.expand_dims(memory_mask, -1), cells, 0.0)
            number = ops.maximum(ops.sum(ops.cast(memory_mask, "float32"), axis=1, keepdims=True), 1.0)
        image = self.norm(self.image(ops.sum(cells, axis=1) / number**0.5))
        return {"gates": self.image_gates(image)} | ({"told": self.tell(image)} if self.gated else {})

    def start(self, seen):
        rows = seen["gates"].shape[0]
        return self._advance(ops.zeros((rows, self.word_dim)), ops.zeros((rows, 2, self.dim)), seen["gates"])

    def turn(self, word, state, seen):
        return (self._advance(word, state, seen["gates"] if self.each_word else 0.0),)

    def unembed(self, words, hidden, seen):
        if self.gated:
            asked = self.ask(ops.concatenate([hidden, words], axis=-1))
            hidden = ops.concatenate([hidden, asked * ops.expand_dims(seen["told"], 1)], axis=-1)
        return self.output_projection(hidden)


class AttendingWriter(RecurrentWriter):
    """An LSTM that looks at the cells anew for every word: soft attention.

        e_i = v tanh(W_a a_i + W_h [h, Ey]),  alpha = softmax(e),  z = beta sum_i alpha_i a_i,
        beta = sigmoid(f h),  h' = LSTM([Ey, z], h),  logits = L_o (Ey + L_h h' + L_z z)

    A cell that the mask leaves out gets no weight; with none left the row looks at nothing.

    Args, call, returns: RecurrentWriter.
    Source: Show, Attend and Tell, sections 3.1.2 and 4.2, arXiv:1502.03044. Differs: what is looked at
        depends on the last word Ey too, not on h alone, so that a word just chosen is no news too late.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.initial = keras.layers.Dense(2 * self.dim, activation="tanh", name="initial")
        self.keys = keras.layers.Dense(self.dim, name="keys")
        self.query = keras.layers.Dense(self.dim, use_bias=False, name="query")
        # No bias: it would add the same to every cell, and the softmax forget it.
        self.score = keras.layers.Dense(1, use_bias=False, name="score")
        self.gate = keras.layers.Dense(1, activation="sigmoid", name="gate")
        self.from_hidden = keras.layers.Dense(self.word_dim, name="from_hidden")
        self.from_context = keras.layers.Dense(self.word_dim, use_bias=False, name="from_context")

    def build(self, input_shape=None):
        super().build()
        self.initial.build((None, self.memory_dim))
        self.keys.build((None, None, self.memory_dim))
        self.query.build((None, self.dim + self.word_dim))
        self.score.build((None, None, self.dim))
        self.gate.build((None, self.dim))
        self.gates.build((None, self.word_dim + self.memory_dim + self.dim))
        self.from_hidden.build((None, None, self.dim))
        self.from_context.build((None, None, self.memory_dim))
        self.output_projection.build((None, None, self.word_dim))

    def prepare(self, memory, memory_mask):
        cells = ops.cast(memory, "float32")
        mask = ops.ones(cells.shape[:2], "bool") if memory_mask is None else memory_mask
        return {"cells": cells, "keys": self.keys(cells), "mask": mask}

    def start(self, seen):
        kept = ops.expand_dims(ops.cast(seen["mask"], "float32"), -1)
        mean = ops.sum(seen["cells"] * kept, axis=1) / ops.maximum(ops.sum(kept, axis=1), 1.0)
        return ops.reshape(self.initial(mean), (-1, 2, self.dim))

    def turn(self, word, state, seen):
        query = self.query(ops.concatenate([state[:, 0], word], axis=-1))
        scores = self.score(ops.tanh(seen["keys"] + ops.expand_dims(query, 1)))[..., 0]
        weights = softmax(ops.where(seen["mask"], scores, -1e30), axis=-1)
        weights = ops.where(seen["mask"], weights, 0.0)
        context = ops.einsum("bn,bnc->bc", weights, seen["cells"]) * self.gate(state[:, 0])
        return self._advance(ops.concatenate([word, context], axis=-1), state), weights, context

    def unembed(self, words, hidden, seen, context):
        return self.output_projection(words + self.from_hidden(hidden) + self.from_context(context))
