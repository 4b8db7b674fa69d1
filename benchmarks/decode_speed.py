"""How fast the generation loop writes: `python benchmarks/decode_speed.py [--dim 576] [--depth 6]`.

A `TextDecoder` with random weights over a memory of 64 vectors. Prints tokens/s of batch 1 and 8 for each way
of writing, the median of the repeats, after a call that compiles. No row ends early.
"""

import argparse
import time

import numpy as np

from saccade import backend
from saccade.decoding.settings import GenerationConfig
from saccade.generate import Writer
from saccade.heads.text import TextDecoder
from saccade.layers.embeddings import TokenEmbedding

WAYS = {
    "greedy": {},
    "sampling": {"temperature": 1.0},
    "top_k 50": {"temperature": 1.0, "top_k": 50},
    "top_p 0.95": {"temperature": 1.0, "top_p": 0.95},
    "4 beams": {"num_beams": 4},
    "lookup 4": {"prompt_lookup_num_tokens": 4},
}


def median_s(function, repeats: int) -> float:
    function()  # compiles
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dim", type=int, default=576)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    embedding = TokenEmbedding(options.vocab_size, options.dim, options.tokens)
    embedding.build()
    decoder = TextDecoder(embedding, options.depth, options.dim // 64, options.dim * 8 // 3)
    decoder.build()
    writer = Writer(decoder)
    print(f"device={backend.device_name()} parameters={decoder.count_params():,} tokens={options.tokens}")
    for way, changes in WAYS.items():
        # A word that the model does not have never ends a text.
        settings = GenerationConfig(max_new_tokens=options.tokens, eos_token_id=options.vocab_size, **changes)
        found = []
        for rows in (1, 8):
            memory = np.random.default_rng(0).normal(size=(rows, 64, options.dim)).astype(np.float32)
            prompt = (memory, np.ones((rows, 64), bool))
            seconds = median_s(lambda p=prompt, s=settings: writer.generate(p, s), options.repeats)
            found.append(f"batch {rows} {rows * options.tokens / seconds:8.0f} tokens/s")
        print(f"{way:12} {'   '.join(found)}")


if __name__ == "__main__":
    main()
