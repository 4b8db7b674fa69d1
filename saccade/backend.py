"""What differs between JAX and torch, and nothing else: compiling, gradients, devices, caches.

The rest of Saccade uses `keras.ops`. Functions here take and return native tensors.
"""

import contextlib
import contextvars
import functools
import os
import resource
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np

from saccade.errors import SaccadeError

# Dense bfloat16 peak in FLOP/s, from the vendors' data sheets; the first name found in the device name wins.
PEAK_BF16_FLOPS = {
    "GB200": 2500e12, "B200": 2250e12, "H200": 989e12, "H100 PCIE": 756e12, "H100": 989e12, "GH200": 989e12,
    "A100": 312e12, "A10G": 125e12, "L40S": 362e12, "L4": 121e12, "RTX 5090": 209.5e12, "RTX 4090": 165.2e12,
    "RTX 3090": 71e12, "V100": 125e12, "T4": 65e12,
    "TPU V4": 275e12, "TPU V5 LITE": 197e12, "TPU V5E": 197e12, "TPU V5P": 459e12, "TPU V6": 918e12,
}  # fmt: skip


def name() -> str:
    """`jax` or `torch`. Raises: SaccadeError: any other Keras backend."""
    backend = keras.backend.backend()
    if backend not in ("jax", "torch"):
        raise SaccadeError(f"Keras runs on {backend}, Saccade on jax or torch: set KERAS_BACKEND=jax")
    return backend


def jit(function: Callable, donate: bool = False, static: tuple[str, ...] = ()) -> Callable:
    """One compiled call on JAX, reusing the first argument's memory if `donate`; nothing on torch."""
    if name() != "jax":
        return function
    import jax

    return jax.jit(function, donate_argnums=(0,) if donate else (), static_argnames=static)


def value_and_grad(function: Callable, values: list, *args) -> tuple[tuple[Any, Any], list]:
    """Evaluate `function(values, *args) -> (loss, aux)` and the gradient of the loss by each of `values`.

    Returns: ((loss, aux), gradients), gradients shaped like `values`, zero where the loss does not depend on
        a value.
    """
    if name() == "jax":
        import jax

        return jax.value_and_grad(function, has_aux=True)(values, *args)
    import torch

    leaves = [value.detach().requires_grad_() for value in values]
    with torch.enable_grad():
        loss, aux = function(leaves, *args)
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    gradients = [torch.zeros_like(v) if g is None else g for g, v in zip(gradients, leaves, strict=True)]
    aux = keras.tree.map_structure(lambda t: t.detach() if torch.is_tensor(t) else t, aux)
    return (loss.detach(), aux), gradients


def compiled(function: Callable, model: keras.Layer) -> Callable:
    """Turn a function that calls methods of a built model into one compiled call without gradients.

    The weights travel as arguments and are read at every call: loading others needs no recompilation. A new
    shape of the arguments does recompile. What the function assigns to variables (dropout seeds, say) is
    dropped on JAX.

    Args:
        function: `function(*tensors) -> tree of tensors`; the arguments may be trees too.
        model: the layer or model whose variables the function reads.
    Returns: a callable with the function's signature.
    """
    if name() == "torch":
        import torch

        def eager(*args):
            with torch.no_grad():
                return function(*args)

        return eager
    import jax

    variables: list = []

    def pure(values, args):
        scope = keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True)))
        with scope, _forward_only():
            return function(*args)

    jitted = jax.jit(pure)

    def call(*args):
        found = model.variables  # not before: the model may be built, or get adapters, after this wrapper
        if len(found) != len(variables):
            variables[:] = found
        return jitted([v.value for v in variables], args)

    return call


_no_gradient = contextvars.ContextVar("no_gradient", default=False)


@contextlib.contextmanager
def _forward_only() -> Generator[None, None, None]:
    token = _no_gradient.set(True)
    try:
        yield
    finally:
        _no_gradient.reset(token)


def without_gradient(function: Callable, *args):
    """`function(*args)`, its result a constant, and so is all that it uses: nothing is kept for a gradient.

    Stopping the gradient of the result alone would still prepare that of the weights within.
    """
    if name() != "jax":
        import torch

        with torch.no_grad():
            return function(*args)
    import jax
    from jax.extend import core

    # jax.closure_convert would do, but keeps what it converted, weights and all, for good.
    traced, result = jax.make_jaxpr(function, return_shape=True)(*args)
    constant = core.ClosedJaxpr(traced.jaxpr, jax.lax.stop_gradient(list(traced.consts)))
    flat = core.jaxpr_as_fun(constant)(*jax.tree.leaves(jax.lax.stop_gradient(args)))
    return jax.tree.unflatten(jax.tree.structure(result), flat)


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether this is a CPU with instructions for products of bfloat16 matrices, and JAX, which uses them."""
    if name() != "jax" or device_name() != "cpu":
        return False
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text().split()
    except OSError:  # another operating system: its CPU is taken for one without
        return False


def has_own_product(dtype) -> bool:
    """Whether `tensordot` goes its own way: within `compiled`, of bfloat16, if `multiplies_bfloat16`."""
    return _no_gradient.get() and dtype == "bfloat16" and multiplies_bfloat16()


def tensordot(a, b, axes: tuple[int, int]):
    """`ops.tensordot` along one axis of each; fast for bfloat16 on a CPU where no gradient is needed.

    XLA has a CPU's bfloat16 instructions only for products whose result is float32; others it computes in
    float32 altogether, at half the speed.
    """
    if not has_own_product(a.dtype):
        return keras.ops.tensordot(a, b, axes=axes)
    import jax

    left, right = jax.numpy.moveaxis(a, axes[0], -1), jax.numpy.moveaxis(b, axes[1], 0)
    flat = left.reshape(-1, left.shape[-1]), right.reshape(right.shape[0], -1)  # all that the kernel takes
    product = jax.lax.dot(*flat, preferred_element_type="float32").astype(a.dtype)
    return product.reshape(*left.shape[:-1], *right.shape[1:])


@dataclass(frozen=True)
class Program:
    """A function compiled for arguments of certain shapes. `jaxpr` and `temporary_bytes`, the memory it holds
    besides its arguments and results while it runs, are None on torch."""

    call: Callable
    jaxpr: Any = None
    temporary_bytes: int | None = None


def program(jitted: Any, *args, **static) -> Program:
    """Compile a function made by `jit` for these arguments before its first call."""
    if name() != "jax":
        return Program(functools.partial(jitted, **static))
    traced = jitted.trace(*args, **static)
    compiled = traced.lower().compile()
    return Program(compiled, traced.jaxpr, int(compiled.memory_analysis().temp_size_in_bytes))


def shapes(function: Callable, *args):
    """What `function(*args)` would return, as shapes where the backend can tell without computing (JAX)."""
    if name() == "jax":
        import jax

        return jax.eval_shape(function, *args)
    return function(*args)


def gumbel(seeds, step, width: int):
    """Standard Gumbel noise, float32 (B, width): row b's is a function of seeds[b] and step, both int32."""
    if name() == "jax":
        import jax

        def row(seed):
            return jax.random.gumbel(jax.random.fold_in(jax.random.key(seed), step), (width,))

        return jax.vmap(row)(seeds)
    import torch

    rows = []
    for seed in seeds.tolist():
        mixed = np.random.SeedSequence([seed, int(step)]).generate_state(1)[0]
        generator = torch.Generator(device=seeds.device).manual_seed(int(mixed))
        rows.append(-torch.empty(width, device=seeds.device).exponential_(generator=generator).log())
    return torch.stack(rows)


def in_order(value):
    """The same values, their memory in the order of the axes from here on and in the gradient.

    XLA may choose another order for what a compiled function computes; where the result is turned around at
    its end it does, and then turns every state around for each product that needs it otherwise.
    """
    if name() != "jax":
        return value
    from jax.experimental.layout import Layout, with_layout_constraint

    return with_layout_constraint(value, Layout(tuple(range(value.ndim))))


def to_device(array: np.ndarray):
    """Copy a NumPy array to the default device, without waiting on JAX.

    No device is named on purpose: JAX compiles a second time when an argument becomes pinned to a device.
    """
    if name() == "jax":
        import jax

        return jax.device_put(array)
    return keras.ops.convert_to_tensor(array)


def own_copy(value):
    """A copy with its own memory, so that donating it to a compiled call leaves the original alive."""
    if name() == "jax":
        import jax.numpy as jnp

        return jnp.array(value, copy=True)
    return value.detach().clone()


def free(value) -> None:
    """Give back the memory of a tensor that nobody reads again; on torch that is the collector's business."""
    if name() == "jax":
        value.delete()


def start_host_copy(value) -> None:
    """Begin to copy a tensor to the host, so that reading it two steps later finds it there."""
    if name() == "jax":
        value.copy_to_host_async()


def to_host(values: list) -> list[np.ndarray]:
    """Tensors as NumPy arrays; bfloat16 becomes ml_dtypes.bfloat16. Waits for the device."""
    if name() == "jax":
        import jax

        return [np.asarray(v) for v in jax.device_get(values)]
    return [keras.ops.convert_to_numpy(v) for v in values]


def enable_compilation_cache(path: str | os.PathLike | None = None) -> Path | None:
    """Keep compiled programs on disk, so that the next process starts fast.

    Args:
        path: the folder; default `saccade/compiled` under XDG_CACHE_HOME or ~/.cache.
    Returns: the folder in use; None on torch or if it cannot be written (then nothing is cached, nothing
        fails).
    """
    if name() != "jax":
        return None
    import jax

    if path is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        path = Path(home) / "saccade" / "compiled"
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(path, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return path


@contextlib.contextmanager
def compiled_once() -> Generator[None]:
    """What is compiled within runs once, such as drawing the first weights: JAX optimises it less.

    The values are the same; a small VLM-HRM is there in a third of the time where no cache helps.
    """
    if name() != "jax":
        yield
        return
    import jax

    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def device_name() -> str:
    """The default device in words, such as `NVIDIA H200` or `cpu`."""
    if name() == "jax":
        import jax

        return jax.devices()[0].device_kind
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def compute_capability() -> tuple[int, int] | None:
    """Of the Nvidia GPU that JAX computes on, such as (9, 0) of an H100; None elsewhere."""
    if name() != "jax":
        return None
    import jax

    found = getattr(jax.devices()[0], "compute_capability", None)
    if found is None or jax.default_backend() != "gpu":
        return None
    major, minor = map(int, found.split("."))
    return major, minor


def fewest_rows() -> int:
    """How many rows a decoding step should have at least: 2 with JAX on a GPU, else 1.

    Of a matrix product with one row XLA makes elementwise products and sums there, two kernels for one.
    """
    if name() != "jax":
        return 1
    import jax

    return 2 if jax.default_backend() == "gpu" else 1


def peak_flops(device: str | None = None) -> float | None:
    """Peak bfloat16 FLOP/s of one device (default: the one in use); None for a CPU or an unknown device."""
    text = (device_name() if device is None else device).upper().replace("-", " ")
    return next((peak for key, peak in PEAK_BF16_FLOPS.items() if key in text), None)


def memory_peak_bytes() -> int:
    """Most memory held so far: of the accelerator where it tells, else of this process."""
    if name() == "jax":
        import jax

        statistics = jax.devices()[0].memory_stats()
        if statistics and "peak_bytes_in_use" in statistics:
            return int(statistics["peak_bytes_in_use"])
    else:
        import torch

        if torch.cuda.is_available():
            return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory_limit_bytes() -> int | None:
    """What the accelerator lets this process hold; None where it does not tell."""
    if name() == "jax":
        import jax

        return (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    import torch

    return torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else None


def start_profile(folder: str | os.PathLike) -> bool:
    """Start to record what the device does. Returns whether the backend can (JAX)."""
    if name() != "jax":
        return False
    import jax

    jax.profiler.start_trace(str(folder))
    return True


def stop_profile() -> None:
    """Write the profile begun by `start_profile`."""
    import jax

    jax.profiler.stop_trace()


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and Keras, so that a model built next starts from the same weights every time."""
    keras.utils.set_random_seed(seed)
