"""Image and text into one sequence: twelve strategies, one contract."""

import keras
from keras import ops

from saccade.fusion.cross_attention import CrossModalAttention, HierarchicalCrossModalFusion
from saccade.fusion.resampler import PerceiverResampler, QueryFusion, all_true, attentions
from saccade.layers.attention_kinds import make_attention
from saccade.layers.normalization import rms
from saccade.layers.pooling import AttentionPooling

# The options that a strategy takes beside those of all, with their defaults.
_OPTIONS: dict[str, dict] = {
    "concat": {},
    "add": {"read": "pool"},
    "multiply": {"read": "pool"},
    "gated": {"read": "pool"},
    "attention": {"depth": 1, "attention": "multi_head"},
    "cross_modal": {"attention": "multi_head"},
    "hierarchical": {"attention": "multi_head"},
    "bilinear": {"read": "pool", "rank": None},
    "tensor": {"read": "pool", "rank": 4},
    "film": {"read": "pool"},
    "q_former": {"num_queries": 32, "depth": 2, "attention": "multi_head"},
    "perceiver": {"num_queries": 32, "depth": 2, "attention": "multi_head"},
}
STRATEGIES = tuple(_OPTIONS)


@keras.saving.register_keras_serializable(package="saccade")
class MultiModalFusion(keras.layers.Layer):
    """Fuse image and text tokens of any lengths and widths.

    Both are projected to `dim` first (Dense with bias). v is an image token, t a text token after that; c is
    what t is given of the image: a learned weighted mean of all v (`read="pool"`), or t's own attention to
    them (`read="attend"`). A padded token is never read, and the result is zero where its mask is False.

    | strategy | result | S |
    |---|---|---|
    | concat | [v; t] | N + T |
    | add | t + c | T |
    | multiply | t * c | T |
    | gated | z tanh(c) + (1 - z) tanh(t), z = sigmoid(W [c; t] + b) | T |
    | attention | [rms(v + Attention(v, t)); rms(t + Attention(t, v))], depth times | N + T |
    | cross_modal | [v + Attention(norm(v), norm(t)); t + Attention(norm(t), norm(v))] | N + T |
    | hierarchical | tokens, groups and wholes meet; see HierarchicalCrossModalFusion | N + T |
    | bilinear | P (tanh(U c) * tanh(V t)), U and V to `rank` | T |
    | tensor | sum over r < rank of (U_r [c; 1]) * (V_r [t; 1]) | T |
    | film | (1 + g(c)) * t + b(c) | T |
    | q_former | queries that talk with t and read v; see QueryFusion | num_queries |
    | perceiver | latents that read [v; t]; see PerceiverResampler | num_queries |

    Args:
        strategy: of STRATEGIES.
        dim: width of the result.
        vision_dim, text_dim: C and D, widths of the inputs; None = dim.
        num_heads: of every attention and of the pooling; must divide dim. concat needs none.
        read: "pool" or "attend"; add, multiply, gated, bilinear, tensor, film. Default "pool".
        rank: bilinear: width of the product, default dim. tensor: number of terms, default 4.
        num_queries: q_former, perceiver. Default 32.
        depth: number of blocks: attention (default 1), q_former, perceiver (default 2).
        attention: kind of the attentions of attention, cross_modal, hierarchical, q_former and perceiver:
            multi_head (default), grouped, differential or linear; see make_attention.
    Call:
        vision: float (B, N, C), or (B, C): one token.  text: float (B, T, D), or (B, D): one token.
        vision_mask: bool (B, N).  text_mask: bool (B, T). True = keep; None = all.
    Returns: fused, float (B, S, dim); mask, bool (B, S), True = keep: those of the inputs where S is of their
        lengths, all True for queries.
    Raises: ValueError: no such strategy, kind or way to read (names them); an option that the strategy does
        not take (names those it takes); num_heads does not divide dim (states both); in the call, features
        of another rank, width or number of rows, without a token, or a mask of another length.
    Source: gated: Gated Multimodal Units, section 3, arXiv:1702.01992 (the gate reads the projected inputs);
        attention: LXMERT, section 2.1, arXiv:1908.07490 (cross-attention only); bilinear: MLB, section 3,
        arXiv:1610.04325; tensor: LMF, section 3.2, arXiv:1806.00064; film: FiLM, section 2, arXiv:1709.07871;
        cross_modal, hierarchical, q_former, perceiver: see their layers.
    """

    def __init__(
        self,
        strategy: str,
        dim: int,
        vision_dim: int | None = None,
        text_dim: int | None = None,
        num_heads: int = 4,
        read: str | None = None,
        rank: int | None = None,
        num_queries: int | None = None,
        depth: int | None = None,
        attention: str | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        sizes = {"rank": rank, "num_queries": num_queries, "depth": depth}
        options = _options(strategy, {"read": read, "attention": attention, **sizes})
        self.strategy = strategy
        self.dim = dim
        self.vision_dim = dim if vision_dim is None else vision_dim
        self.text_dim = dim if text_dim is None else text_dim
        policy = self.dtype_policy
        self.vision_projection = keras.layers.Dense(dim, dtype=policy, name="vision_projection")
        self.text_projection = keras.layers.Dense(dim, dtype=policy, name="text_projection")
        self.mixer = _mixer(strategy, dim, num_heads, options, policy)

    def build(self, input_shape=None):
        self.vision_projection.build((None, None, self.vision_dim))
        self.text_projection.build((None, None, self.text_dim))
        if self.mixer is not None:
            self.mixer.build()

    def __call__(self, vision, text, *args, **kwargs):
        # Before Keras, which would wrap the one line in a page.
        given = dict(zip(("vision_mask", "text_mask"), args, strict=False)) | kwargs
        for name, x, width in (("vision", vision, self.vision_dim), ("text", text, self.text_dim)):
            if problem := misfit(name, x, given.get(f"{name}_mask"), width):
                raise ValueError(problem)
        rows = vision.shape[0], text.shape[0]
        if None not in rows and rows[0] != rows[1]:
            raise ValueError(f"vision has {rows[0]} rows, text {rows[1]}; pair them one to one")
        return super().__call__(vision, text, *args, **kwargs)

    def call(self, vision, text, vision_mask=None, text_mask=None):
        vision, vision_mask = project_tokens(vision, vision_mask, self.vision_projection)
        text, text_mask = project_tokens(text, text_mask, self.text_projection)
        both_masks = ops.concatenate([vision_mask, text_mask], axis=1)
        if self.strategy == "concat":
            fused, mask = ops.concatenate([vision, text], axis=1), both_masks
        elif self.strategy == "attention":
            fused, mask = self.mixer(vision, text, vision_mask, text_mask), both_masks
        elif self.strategy in ("cross_modal", "hierarchical"):
            both = self.mixer(vision, text, vision_mask, text_mask)
            fused, mask = ops.concatenate(both, axis=1), both_masks
        elif self.strategy == "q_former":
            fused, mask = self.mixer(vision, text, vision_mask, text_mask), None
        elif self.strategy == "perceiver":
            fused, mask = self.mixer(ops.concatenate([vision, text], axis=1), both_masks), None
        else:
            fused, mask = self.mixer(vision, text, vision_mask), text_mask
        if mask is None:
            return fused, all_true(fused)
        return ops.where(ops.expand_dims(mask, -1), fused, ops.zeros_like(fused)), mask


def _options(strategy: str, given: dict) -> dict:
    if strategy not in _OPTIONS:
        raise ValueError(f"no fusion strategy {strategy!r}; choose one of {', '.join(STRATEGIES)}")
    given = {name: value for name, value in given.items() if value is not None}
    takes = _OPTIONS[strategy]
    if wrong := sorted(given.keys() - takes.keys()):
        raise ValueError(
            f"{strategy} takes no {', '.join(wrong)}; it takes {', '.join(takes) or 'no option'}"
        )
    return {**takes, **given}


def _mixer(strategy: str, dim: int, num_heads: int, options: dict, policy):
    """The layer between the projected tokens and the result; None where there is nothing to learn."""
    if options.get("attention") == "local_sparse":
        kinds = "multi_head, grouped, differential or linear"
        raise ValueError(f"attention='local_sparse' stays within one sequence; choose {kinds}")
    if strategy == "concat":
        return None
    if strategy == "attention":
        return TwoWayAttention(dim, num_heads, **options, dtype=policy, name="two_way")
    if strategy == "cross_modal":
        return CrossModalAttention(dim, num_heads, **options, dtype=policy, name="cross_modal")
    if strategy == "hierarchical":
        return HierarchicalCrossModalFusion(dim, num_heads, **options, dtype=policy, name="hierarchical")
    if strategy == "q_former":
        return QueryFusion(dim=dim, num_heads=num_heads, **options, dtype=policy, name="q_former")
    if strategy == "perceiver":
        return PerceiverResampler(dim=dim, num_heads=num_heads, **options, dtype=policy, name="perceiver")
    return TokenFusion(strategy, dim, num_heads, **options, dtype=policy, name="tokenwise")


def misfit(name: str, features, mask, width: int) -> str:
    """What is wrong with the features of one side, in one line; "" if nothing is.

    Args: name: "vision" or "text", with or without "_features".  features: (B, N, width) or (B, width); sizes
        that are not known (None) are not looked at.  mask: (B, N) or None.
    """
    side = name.removesuffix("_features")
    for what, value in ((name, features), (f"{side}_mask", mask)):
        if value is not None and not hasattr(value, "shape"):
            return f"{what} is a {type(value).__name__}; give an array"
    shape = tuple(features.shape)
    if len(shape) not in (2, 3) or 0 in shape:
        return f"{name} is {shape}; give (rows, tokens, width) or (rows, width), at least 1 of each"
    if shape[-1] is not None and shape[-1] != width:
        return f"{name} is {shape[-1]} wide, not {width}; set {side}_dim"
    if mask is not None:
        found, needed = tuple(mask.shape), shape[:2] if len(shape) == 3 else (shape[0], 1)
        if len(found) != 2 or any(a != b for a, b in zip(found, needed, strict=True) if None not in (a, b)):
            return f"{side}_mask is {found}, {name} needs {needed}; one value a token"
    return ""


def project_tokens(x, mask, projection):
    """(B, C) or (B, N, C), mask or None -> projected (B, N, dim), bool (B, N)."""
    x = ops.expand_dims(x, 1) if len(x.shape) == 2 else x
    if mask is None:
        return projection(x), all_true(x)
    # What stands at a padded place may be anything, NaN too, which a weight of zero would not undo.
    mask = ops.cast(mask, "bool")
    return projection(ops.where(ops.expand_dims(mask, -1), x, ops.zeros_like(x))), mask


class TwoWayAttention(keras.layers.Layer):
    """Vision reads text and text reads vision, both as they were: x = rms(x + Attention(x, other)).

    Args:
        dim: D.  num_heads: must divide dim.  depth: number of blocks.  attention: see make_attention.
    Call:
        vision: float (B, N, D).  text: float (B, T, D).
        vision_mask: bool (B, N).  text_mask: bool (B, T). True = keep.
    Returns: float (B, N + T, D), vision first.
    """

    def __init__(self, dim: int, num_heads: int, depth: int = 1, attention="multi_head", **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.read_text = attentions(attention, dim, num_heads, depth, "read_text", policy)
        self.read_vision = attentions(attention, dim, num_heads, depth, "read_vision", policy)

    def build(self, input_shape=None):
        for part in (*self.read_text, *self.read_vision):
            part.build()

    def call(self, vision, text, vision_mask, text_mask):
        vision_mask, text_mask = (ops.expand_dims(mask, 1) for mask in (vision_mask, text_mask))
        for read_text, read_vision in zip(self.read_text, self.read_vision, strict=True):
            seen = rms(vision + read_text(vision, text, attention_mask=text_mask))
            text = rms(text + read_vision(text, vision, attention_mask=vision_mask))
            vision = seen
        return ops.concatenate([vision, text], axis=1)


class TokenFusion(keras.layers.Layer):
    """Each text token with what it is given of the image; the formulas are in MultiModalFusion.

    Args:
        strategy: add, multiply, gated, bilinear, tensor or film.
        dim: D.  num_heads: must divide dim.  read, rank: see MultiModalFusion.
    Call:
        vision: float (B, N, D).  text: float (B, T, D).  vision_mask: bool (B, N), True = keep.
    Returns: float (B, T, D).
    Raises: ValueError: no such way to read (names them).
    """

    def __init__(
        self, strategy: str, dim: int, num_heads: int, read: str = "pool", rank: int | None = None, **kwargs
    ):
        super().__init__(**kwargs)
        if read not in ("pool", "attend"):
            raise ValueError(f"no way to read {read!r}; choose pool or attend")
        self.strategy = strategy
        self.dim = dim
        self.rank = dim if rank is None else rank
        self.read = read
        policy = self.dtype_policy
        if read == "pool":
            self.reader = AttentionPooling(dim, num_heads, dtype=policy, name="pool")
        else:
            self.reader = make_attention("multi_head", dim, num_heads, dtype=policy, name="attend")
        self.parts = {
            name: keras.layers.Dense(width, dtype=policy, name=name)
            for name, (_, width) in self._widths().items()
        }

    def _widths(self) -> dict[str, tuple[int, int]]:
        """Widths, in and out, of the products that the strategy needs, by name."""
        dim, rank = self.dim, self.rank
        return {
            "gated": {"gate": (2 * dim, dim)},
            "bilinear": {"from_vision": (dim, rank), "from_text": (dim, rank), "output": (rank, dim)},
            "tensor": {"from_vision": (dim, rank * dim), "from_text": (dim, rank * dim)},
            "film": {"scale": (dim, dim), "shift": (dim, dim)},
        }.get(self.strategy, {})

    def build(self, input_shape=None):
        self.reader.build()
        for name, (width, _) in self._widths().items():
            self.parts[name].build((None, None, width))

    def call(self, vision, text, vision_mask):
        return getattr(self, f"_{self.strategy}")(self._context(vision, text, vision_mask), text)

    def _context(self, vision, text, vision_mask):
        """What each text token is given of the image: (B, T, D)."""
        if self.read == "attend":
            return self.reader(text, vision, attention_mask=ops.expand_dims(vision_mask, 1))
        return ops.expand_dims(self.reader(vision, padding_mask=vision_mask), 1)

    def _add(self, c, t):
        return t + c

    def _multiply(self, c, t):
        return t * c

    def _gated(self, c, t):
        c = ops.broadcast_to(c, ops.shape(t))
        z = ops.sigmoid(self.parts["gate"](ops.concatenate([c, t], axis=-1)))
        return z * ops.tanh(c) + (1 - z) * ops.tanh(t)

    def _bilinear(self, c, t):
        product = ops.tanh(self.parts["from_vision"](c)) * ops.tanh(self.parts["from_text"](t))
        return self.parts["output"](product)

    def _tensor(self, c, t):
        terms = self.parts["from_vision"](c) * self.parts["from_text"](t)
        return ops.sum(ops.reshape(terms, (*ops.shape(terms)[:-1], self.rank, self.dim)), axis=-2)

    def _film(self, c, t):
        return (1 + self.parts["scale"](c)) * t + self.parts["shift"](c)
