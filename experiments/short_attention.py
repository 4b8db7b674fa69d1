"""Is attention over short sequences faster in Mosaic? `python experiments/short_attention.py`, Hopper GPUs.

As saccade/kernels/self_attention.py, but with Hopper's own copies and products: a head's queries, keys and
values lie in shared memory, (B, T, (A + 2 G) E) as one product leaves them. Prints, for lengths that nanoVLM
and TRM have, how far values and gradients are from those of the kernel that ships, and the time of both.

Its gradient is faster where blocks are many (docs/log.md, 2026-11-28, seventh session). It does not ship:
copies want T a multiple of 8, which TRM's 81 tokens and SigLIP's 196 are not, and with 200 tokens its
registers do not suffice. What is next: scores in two parts, by the sums of the forward pass, which the
gradient then need not find again.
"""

import math
import tempfile
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from saccade import backend
from saccade.kernels import self_attention
from saccade.kernels.common import ROWS, bank_tiles, launch
from saccade.kernels.self_attention import LOWEST
from saccade.layers.rotary import rotary_table
from saccade.train import profile

BANKED = 32  # columns that lie together in shared memory, and what products sum over is a multiple of it
MOST = 128  # queries that meet a tile of keys at once in the gradient, whose sums lie in registers too


class Heads(self_attention.Heads):
    """With what this kernel derives of them."""

    @property
    def tiles(self) -> int:
        """Of ROWS tokens, the last filled up with zeros."""
        return pl.cdiv(self.length, ROWS)

    @property
    def reach(self) -> int:
        """Keys that a tile of queries meets: T, up to what products sum over."""
        return BANKED * pl.cdiv(self.length, BANKED)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def attention(packed, table, heads: Heads):
    """softmax(Q K^T / sqrt(E)) V per head, scores and sums in float32.

    Args: packed: bfloat16 (B, T, (A + 2 G) E).  table: cosines and sines that queries and keys turn by, each
        float32 (T, E / 2); () = they do not.
    Returns: (B, T, A E).
    Source: FlashAttention, arXiv:2205.14135, with all keys as one tile.
    """
    return _mix(packed, table, heads)


def _attention_keep(packed, table, heads):
    return _mix(packed, table, heads), (packed, table)


def _attention_gradient(heads, kept, given):
    packed, table = kept
    return _by_packed(packed, table, given, heads), jax.tree.map(jnp.zeros_like, table)


attention.defvjp(_attention_keep, _attention_gradient)


@partial(jax.jit, static_argnames="heads")
def _mix(packed, table, heads: Heads):
    """A block has a head of queries."""

    def body(packed_ref, *refs):
        *table, out_ref, queries, keys, values, first, second = refs
        row, head = _split(lax.axis_index("grid"), heads.queries)
        shared = heads.queries + lax.div(head, heads.group)
        source = partial(_rows, packed_ref, row, heads)
        plgpu.copy_gmem_to_smem(source(head), queries, first)
        plgpu.copy_gmem_to_smem(source(shared), keys, first)
        plgpu.copy_gmem_to_smem(source(shared + heads.shared), values, second)
        plgpu.barrier_wait(first)
        _turn([queries, keys], table, heads)
        for tile in range(heads.tiles):
            own = queries.at[_tile(tile)]
            raised, total, _ = _raised(own, keys, tile, heads)
            if tile == 0:
                plgpu.barrier_wait(second)
            mixed = _product(raised.astype(packed.dtype), values.at[pl.ds(0, raised.shape[1])])
            own[...] = (mixed / lax.broadcast_in_dim(total, mixed.shape, (0,))).astype(packed.dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(own, _rows(out_ref, row, heads, head, tile))
        plgpu.wait_smem_to_gmem(0)

    whole = _held(heads)
    scratch = [whole, whole, whole, plgpu.Barrier(num_arrivals=2), plgpu.Barrier()]
    out_type = jax.ShapeDtypeStruct((*packed.shape[:2], heads.queries * heads.width), packed.dtype)
    return launch(body, out_type, 1, len(packed) * heads.queries, scratch)(packed, *_padded(table, heads))


@partial(jax.jit, static_argnames="heads")
def _by_packed(packed, table, given, heads: Heads):
    """Gradient by `packed`, given that by the result. A block has a head of keys and all that read it.

    First each tile of queries meets all keys: that gives the gradient by the queries. Then each tile of keys
    meets all queries, with the weights turned, as the sums by keys and values take them from registers.
    """
    groups = _groups(heads)

    def body(packed_ref, given_ref, *refs):
        *table, out_ref, queries, givens, keys, values, leaving, logs, shares, here, done = refs
        group = lax.axis_index("group")
        row, head = _split(lax.axis_index("grid"), heads.shared)
        shared = heads.queries + head
        source = partial(_rows, packed_ref, row, heads)

        @pl.when(group == 0)
        def _():
            plgpu.copy_gmem_to_smem(source(shared), keys, here)
            plgpu.copy_gmem_to_smem(source(shared + heads.shared), values, here)
            for i in range(heads.group):
                own = head * heads.group + i
                plgpu.copy_gmem_to_smem(source(own), queries.at[i], here)
                plgpu.copy_gmem_to_smem(_rows(given_ref, row, heads, own), givens.at[i], here)

        plgpu.barrier_wait(here)
        _turn([keys, *(queries.at[i] for i in range(heads.group))], table, heads, group, groups)
        if groups > 1 and table:
            plgpu.barrier_arrive(done)
            plgpu.barrier_wait(done)

        def by_queries(i, tile):
            rows = _tile(tile)
            raised, total, highest = _raised(queries.at[i, rows], keys, tile, heads)
            weights = raised / lax.broadcast_in_dim(total, raised.shape, (0,))
            reach = pl.ds(0, raised.shape[1])
            by_weights = _product(givens.at[i, rows], values.at[reach].transpose((1, 0)))
            share = jnp.sum(weights * by_weights, axis=1)
            by_scores = weights * (by_weights - lax.broadcast_in_dim(share, weights.shape, (0,)))
            by_own = _product((by_scores * heads.width**-0.5).astype(packed.dtype), keys.at[reach])
            logs[i, rows] = highest + jnp.log(total) * math.log2(math.e)
            shares[i, rows] = share
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            _store_turned(leaving.at[group], by_own, table, tile, heads)
            plgpu.commit_smem()
            own = head * heads.group + i
            plgpu.copy_smem_to_gmem(leaving.at[group], _rows(out_ref, row, heads, own, tile))

        units = [(i, tile) for i in range(heads.group) for tile in range(heads.tiles)]
        _share_out(units, group, groups, by_queries)
        if groups > 1:
            plgpu.barrier_arrive(done)
            plgpu.barrier_wait(done)

        def by_keys(tile):
            rows = _tile(tile)

            def sums(by_own, by_values):
                for i in range(heads.group):
                    for start, count in _chunks(heads.reach):
                        part = pl.ds(start, count)
                        scores = _product(keys.at[rows], queries.at[i, part].transpose((1, 0)))
                        scores = _masked(scores * _scale(heads), start, tile * ROWS, heads, turned=True)
                        log = lax.broadcast_in_dim(logs[i, part], scores.shape, (1,))
                        weights = jnp.exp2(scores - log)
                        by_weights = _product(values.at[rows], givens.at[i, part].transpose((1, 0)))
                        plgpu.wgmma(by_values, weights.astype(packed.dtype), givens.at[i, part])
                        share = lax.broadcast_in_dim(shares[i, part], scores.shape, (1,))
                        by_scores = weights * (by_weights - share) * heads.width**-0.5
                        plgpu.wgmma(by_own, by_scores.astype(packed.dtype), queries.at[i, part])
                        plgpu.wgmma_wait(0)
                return by_own[...], by_values[...]

            total = plgpu.ACC((ROWS, heads.width), jnp.float32)
            by_own, by_values = pl.run_scoped(sums, total, total)
            _store_turned(keys.at[rows], by_own, table, tile, heads)
            values[rows] = by_values.astype(packed.dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(keys.at[rows], _rows(out_ref, row, heads, shared, tile))
            plgpu.copy_smem_to_gmem(values.at[rows], _rows(out_ref, row, heads, shared + heads.shared, tile))

        _share_out([(tile,) for tile in range(heads.tiles)], group, groups, by_keys)
        plgpu.wait_smem_to_gmem(0)

    scratch = [
        _held(heads, heads.group),
        _held(heads, heads.group),
        _held(heads),
        _held(heads),
        plgpu.SMEM((groups, ROWS, heads.width), packed.dtype, transforms=bank_tiles(BANKED)),
        plgpu.SMEM((heads.group, heads.tiles * ROWS), jnp.float32),
        plgpu.SMEM((heads.group, heads.tiles * ROWS), jnp.float32),
        plgpu.Barrier(num_arrivals=2 + 2 * heads.group),
        plgpu.Barrier(num_arrivals=groups),
    ]
    out_type = jax.ShapeDtypeStruct(packed.shape, packed.dtype)
    blocks = len(packed) * heads.shared
    return launch(body, out_type, groups, blocks, scratch)(packed, given, *_padded(table, heads))


def _groups(heads: Heads) -> int:
    """Of warps, in a block of the gradient."""
    return 1 if heads.group == 1 and heads.tiles <= 2 else 2


def _share_out(units: list, group, groups: int, work) -> None:
    """Each unit to a group of warps, by turns."""
    for one in range(groups):

        @pl.when(group == one)
        def _(one=one):
            for unit in units[one::groups]:
                work(*unit)


def _raised(queries, keys, tile: int, heads: Heads) -> tuple:
    """exp2 of a tile's scores less each row's highest, (ROWS, keys); sums and highest of rows, (ROWS,)."""
    reach = min(heads.reach, (tile + 1) * ROWS) if heads.causal else heads.reach
    scores = _product(queries, keys.at[pl.ds(0, reach)].transpose((1, 0)))
    scores = _masked(scores * _scale(heads), tile * ROWS, 0, heads)
    highest = jnp.max(scores, axis=1)
    raised = jnp.exp2(scores - lax.broadcast_in_dim(highest, scores.shape, (0,)))
    return raised, jnp.sum(raised, axis=1), highest


def _scale(heads: Heads) -> float:
    """Of scores that exp2 raises."""
    return math.log2(math.e) * heads.width**-0.5


def _masked(scores, query: int, key: int, heads: Heads, turned: bool = False):
    """LOWEST where a query may not look; scores (queries, keys) from these places on, or turned."""
    if heads.causal:
        queries = query + lax.broadcasted_iota(jnp.int32, scores.shape, int(turned))
        keys = key + lax.broadcasted_iota(jnp.int32, scores.shape, 1 - turned)
        return jnp.where(keys <= queries, scores, LOWEST)
    if turned or heads.length == heads.reach:
        return scores  # rows of keys that do not exist are never stored
    keys = key + lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    return jnp.where(keys < heads.length, scores, LOWEST)


def _chunks(length: int) -> list[tuple[int, int]]:
    """(start, count) of equal parts, at most MOST, but for the last."""
    count = BANKED * pl.cdiv(pl.cdiv(length, pl.cdiv(length, MOST)), BANKED)
    return [(start, min(count, length - start)) for start in range(0, length, count)]


def _product(left, right):
    """float32 left @ right."""

    def multiply(total):
        plgpu.wgmma(total, left, right)
        return total[...]

    return pl.run_scoped(multiply, plgpu.ACC((left.shape[0], right.shape[1]), jnp.float32))


def _turn(parts: list, table: list, heads: Heads, group=0, groups: int = 1) -> None:
    """Queries and keys in shared memory, by their positions."""
    if not table:
        return

    def turn(tile):
        for ref in parts:
            own = ref.at[_tile(tile)]
            _store_turned(own, own[...].astype(jnp.float32), table, tile, heads, back=False)

    _share_out([(tile,) for tile in range(heads.tiles)], group, groups, turn)
    plgpu.commit_smem()


def _store_turned(ref, value, table: list, tile: int, heads: Heads, back: bool = True) -> None:
    """float32 (ROWS, E), turned by its positions, or back."""
    if not table:
        ref[...] = value.astype(ref.dtype)
        return
    half = heads.width // 2
    first, second = value[:, :half], value[:, half:]
    as_product = {"layout": plgpu.Layout.WGMMA, "optimized": False}
    cos, sin = (plgpu.load(part.at[_tile(tile)], **as_product) for part in table)
    sin = -sin if back else sin
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=1)
    ref[...] = turned.astype(ref.dtype)


def _held(heads: Heads, count: int | None = None):
    """Shared memory for a head, or for several."""
    shape = (heads.tiles * ROWS, heads.width)
    if count is not None:
        shape = (count, *shape)
    return plgpu.SMEM(shape, jnp.bfloat16, transforms=bank_tiles(BANKED))


def _padded(table, heads: Heads) -> list:
    """With rows for every place of the tiles."""
    return [jnp.pad(part, ((0, heads.tiles * ROWS - heads.length), (0, 0))) for part in table]


def _split(block, heads: int) -> tuple:
    """Row of the batch, and head."""
    return lax.div(block, heads), lax.rem(block, heads)


def _tile(tile: int):
    return pl.ds(tile * ROWS, ROWS)


def _rows(ref, row, heads: Heads, head, tile: int | None = None):
    """A head of a row of the batch, all of it or one tile: what is beyond T is zero where it is read, and
    dropped where it is written.

    The start is a sum that tracing does not see: from 0.12 on, JAX refuses a slice known to be too long.
    """
    start, count = (0, heads.tiles * ROWS) if tile is None else (tile * ROWS, ROWS)
    start = lax.axis_index("grid") * 0 + start
    return ref.at[row, pl.ds(start, count), pl.ds(head * heads.width, heads.width)]


def with_gradient(function, given, packed):
    mixed, back = jax.vjp(function, packed)
    return mixed, *back(given)


def milliseconds(function, *args, times: int = 20) -> float:
    """Of the attention kernels in one call."""
    jax.block_until_ready(function(*args))
    with tempfile.TemporaryDirectory() as folder:
        backend.start_profile(folder)
        for _ in range(times):
            found = function(*args)
        jax.block_until_ready(found)
        backend.stop_profile()
        spent = [one for one in profile.busiest(folder) if "attention" in one.name or "mosaic" in one.name]
    return sum(one.milliseconds for one in spent) / times


def main() -> None:
    if backend.compute_capability() != (9, 0):
        print(f"{backend.device_name()}: no Hopper GPU, nothing to measure")
        return
    for rows, heads, turned in (
        (64, Heads(128, 9, 3, 64, True), True),
        (64, Heads(200, 12, 12, 64, False), False),
        (768, Heads(88, 8, 8, 64, False), True),
    ):
        table = tuple(map(jnp.asarray, rotary_table(heads.length, heads.width))) if turned else ()
        keys = jax.random.split(jax.random.key(0))
        channels = (heads.queries + 2 * heads.shared) * heads.width, heads.queries * heads.width
        packed, given = (
            jax.random.normal(key, (rows, heads.length, width), "bfloat16")
            for key, width in zip(keys, channels, strict=True)
        )
        shipped = partial(self_attention.attention, table=table, heads=self_attention.Heads(*heads))
        ways = {"mosaic": partial(attention, table=table, heads=heads), "ships": shipped}
        both = {name: jax.jit(partial(with_gradient, way)) for name, way in ways.items()}
        found, exact = (both[name](given, packed) for name in ways)
        off = [
            float(jnp.linalg.norm((a - b).astype("float32")) / jnp.linalg.norm(b.astype("float32")))
            for a, b in zip(found, exact, strict=True)
        ]
        for name, way in ways.items():
            forward, whole = milliseconds(jax.jit(way), packed), milliseconds(both[name], given, packed)
            print(f"{heads.length} tokens, {name:6}: {forward:.3f} ms, with gradient {whole:.3f}", flush=True)
        print(f"apart by {', '.join(f'{value:.1e}' for value in off)}", flush=True)


if __name__ == "__main__":
    main()
