"""A pipeline whose every answer is scripted, for what measures and reports: it reasons by the book."""

import functools
from types import SimpleNamespace

import numpy as np

from saccade.data.processor import Processor, ProcessorConfig
from saccade.data.scenes import ANSWERS, Source, lexicon
from saccade.data.text import Tokenizer

STEPS, BATCH = 6, 10
GRID = (4, 4)


@functools.cache
def words() -> Processor:
    texts = [text for e in map(Source("rationale").__getitem__, range(60)) for text in (e.text, e.target)]
    config = ProcessorConfig(
        image_sizes=((32, 32), (16, 64)), answers=ANSWERS, max_length=96, length_multiple=16, target_length=96
    )
    return Processor(Tokenizer.train([*texts, *[" ".join(lexicon())] * 20], 900), config)


class Oracle:
    """Knows the answer from step = program depth on, and says so; `wrong` rows never do.

    A row's attention is all on one cell, whose number is the row's. Rows are counted BATCH by BATCH.

    Args: unsure, sure: halting values before it knows and from then on.
    """

    def __init__(self, wrong=(), unsure=-1.0, sure=2.0):
        self.wrong, self.unsure, self.sure, self.rows = wrong, unsure, sure, 0

    def trace(self, batch, task):
        steps = np.arange(1, STEPS + 1)[:, None]
        number = self.rows + np.arange(len(batch["depth"]))
        self.rows += BATCH
        known = (steps >= batch["depth"]) & ~np.isin(number, self.wrong)  # (K, B)
        cells = np.eye(GRID[0] * GRID[1])[number % 16].reshape(-1, *GRID)
        halt = np.where(known, self.sure, self.unsure)
        result = {"q_halt": halt, "attention": np.repeat(cells[None], STEPS, 0)}
        if task == "ground":
            # Shifted by half its width: IoU 1/3.
            width = (batch["boxes"][:, 2:3] - batch["boxes"][:, :1]) / 2
            shifted = batch["boxes"] + width * [1, 0, 1, 0]
            boxes = np.where(known[:, :, None], batch["boxes"], shifted)
            return {**result, "box": boxes, "confidence": known * 0.5}
        classes = len(ANSWERS) if task == "vqa" else 2
        right, other = (np.eye(classes)[(batch["answer"] + by) % classes] for by in (0, 1))
        sharp = np.where(known[:, :, None], right, other)
        return {**result, "probabilities": 0.8 * sharp + 0.2 / classes}


def pipeline(reasoner):
    model = SimpleNamespace(
        config=SimpleNamespace(halt_max_steps=STEPS, halt_threshold=0.0),
        dtype_policy=SimpleNamespace(name="float32"),
        tasks=("vqa", "statement", "match", "ground", "caption", "rationale", "retrieve"),
    )
    return SimpleNamespace(reasoner=reasoner, processor=words(), model=model)


def random_vlm_hrm(processor: Processor):
    """A tiny VLM-HRM with random weights, its halting head included: an untrained one never halts early."""
    import keras

    from saccade.models.vit import ViTConfig
    from saccade.models.vlm_hrm import VLMHRM, preset
    from saccade.pipeline import Pipeline

    tower = ViTConfig(dim=24, depth=1, num_heads=2, mlp_dim=40, image_size=(32, 32), stem=(8, 12, 16))
    config = preset(
        "vlm_hrm_nano", vision=tower, vocab_size=900, num_answers=len(ANSWERS), dim=32, mlp_dim=48
    )
    rng = np.random.default_rng(5)
    with keras.StatelessScope():  # values come when it closes: NumPy's need no compilation
        model = VLMHRM(config)
        for variable in model.variables:
            value = rng.normal(size=variable.shape, scale=0.3).astype(variable.dtype)
            variable._initializer = lambda shape, dtype=None, value=value: value
    return Pipeline(model, processor)
