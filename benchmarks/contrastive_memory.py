"""What contrastive losses of large batches hold in memory, plain and in column blocks.

    python benchmarks/contrastive_memory.py

Prints, for each batch size, the temporary memory in MiB of the loss and its gradient by both sides as XLA
plans it (`temp_size_in_bytes`): nothing is computed. E = 256, float32, blocks of 512.
"""

import saccade  # before Keras: chooses JAX  # noqa: I001
import jax
import numpy as np
from keras import ops

from saccade import backend, losses

WIDTH, CHUNK, BATCHES = 256, 512, (1024, 2048, 4096, 8192)
SCALE, BIAS = 10.0, -10.0


def similarity(images, texts):
    return SCALE * ops.matmul(images, ops.transpose(texts))


LOSSES = {
    "InfoNCE": lambda i, t: losses.info_nce(similarity(i, t)),
    "chunked InfoNCE": lambda i, t: losses.chunked_info_nce(i, t, SCALE, CHUNK),
    "sigmoid": lambda i, t: losses.siglip_loss(similarity(i, t), BIAS),
    "chunked sigmoid": lambda i, t: losses.chunked_siglip_loss(i, t, SCALE, BIAS, CHUNK),
}


def mebibytes(loss, rows: int) -> float:
    """Temporary memory of the value and gradients of the mean loss of so many pairs."""
    step = jax.value_and_grad(lambda i, t: ops.mean(loss(i, t)), argnums=(0, 1))
    side = jax.ShapeDtypeStruct((rows, WIDTH), np.float32)
    return (backend.program(backend.jit(step), side, side).temporary_bytes or 0) / 2**20


def main() -> None:
    print(f"saccade {saccade.__version__}, {backend.device_name()}")
    print(f"{'B':>6}" + "".join(f"{name:>18}" for name in LOSSES))
    for rows in BATCHES:
        print(f"{rows:>6}" + "".join(f"{mebibytes(loss, rows):>18.1f}" for loss in LOSSES.values()))


if __name__ == "__main__":
    main()
