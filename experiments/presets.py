"""What does the smaller preset cost? `python experiments/presets.py`: half an hour of two CPU cores.

vlm_hrm_nano and vlm_hrm_small learn from nothing to answer "what color, shape, size or material is the ..."
of one hop, in small scenes on paper: same questions, steps and rates; only widths, depths and stems are the
presets' (one reasoning step). Prints accuracy on held-out questions, parameters, and seconds an update.
"""

import argparse
import time
from dataclasses import replace
from typing import get_args

import curriculum
import keras
import numpy as np
from rich.console import Console

from saccade import backend
from saccade.data.batching import ATTRIBUTES, Collate
from saccade.data.processor import Processor, ProcessorConfig
from saccade.data.scenes import ANSWERS, lexicon
from saccade.data.scenes.kept import Kept
from saccade.data.scenes.referents import CHANNELS
from saccade.data.text import Tokenizer
from saccade.evaluation import environment
from saccade.models.vlm_hrm import PRESETS, VLMHRM, preset
from saccade.reason import Reasoner
from saccade.train.config import Precision
from saccade.train.labels import Perceive, Refer, Tell
from saccade.train.objectives import Answer, Recursive
from saccade.train.stream import Stream
from saccade.train.trainer import Trainer

SIDE_PX, TOKENS = 96, 20
KEPT = 8000  # training questions


def questions(split: str, seed: int) -> curriculum.AttributeQuestions:
    return curriculum.AttributeQuestions(split, seed, hops=1, side_px=SIDE_PX)


def make_processor() -> Processor:
    config = ProcessorConfig(
        image_sizes=((SIDE_PX, SIDE_PX),), answers=ANSWERS, max_length=TOKENS, length_multiple=TOKENS
    )
    source = questions("train", 0)
    texts = [source[i].text for i in range(100)] + [" ".join(lexicon())] * 50
    return Processor(Tokenizer.train(texts, 1024), config)


def make_model(name: str, processor: Processor, precision: str) -> VLMHRM:
    return VLMHRM(
        preset(
            name,
            vision=replace(PRESETS[name].vision, image_size=(SIDE_PX, SIDE_PX)),
            vocab_size=processor.tokenizer.vocab_size,
            num_answers=len(ANSWERS),
            max_length=TOKENS,
            halt_max_steps=1,  # each row is news, so the core learns to find objects soon
            decoder_depth=0,
            attributes=tuple(len(values) for values in ATTRIBUTES.values()),
            referents=CHANNELS,
        ),
        dtype=keras.DTypePolicy(precision),
    )


def train(name: str, seed: int, options) -> str:
    """One run. Returns: what was measured, as a line."""
    backend.seed_everything(seed)
    processor = make_processor()
    model = make_model(name, processor, options.precision)
    cell_px = model.config.vision.patch_size * model.config.shuffle
    collate = Collate(processor, "vqa", text_length=TOKENS, image_size=(SIDE_PX, SIDE_PX), cell_px=cell_px)
    objective = Recursive(Answer("vqa"), (Perceive(), Refer(weight=2.0), Tell()))
    stream = Stream(Kept(questions("train", seed), KEPT), collate, objective, options.batch)
    batch = collate([questions("val", 7)[i] for i in range(options.num)])
    reasoner = Reasoner(model)

    def judge(model) -> dict[str, float]:
        said = reasoner.run(batch, "vqa")
        return {"accuracy": float(np.mean(said["probabilities"].argmax(-1) == batch["answer"]))}

    settings = curriculum.settings(seed, options)
    trainer = Trainer(model, {"vqa": stream}, settings, evaluate=judge, console=Console())
    begin = time.monotonic()
    trainer.fit()
    seconds = time.monotonic() - begin
    trainer.use_ema()
    found = judge(trainer.model)
    return (
        f"{name}, seed {seed}: accuracy {100 * found['accuracy']:.1f} %, "
        f"{model.count_params():,} parameters; {seconds:.0f} s, {options.steps:,} updates of {options.batch}"
        f"\n{environment(model)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["vlm_hrm_nano", "vlm_hrm_small"], choices=PRESETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", default="float32", choices=get_args(Precision))
    parser.add_argument("--num", type=int, default=500, help="held-out questions")
    parser.add_argument("--eval-every", type=int, default=250)
    options = parser.parse_args()
    backend.enable_compilation_cache()
    for name in options.presets:
        for seed in options.seeds:
            print(train(name, seed, options), flush=True)


if __name__ == "__main__":
    main()
