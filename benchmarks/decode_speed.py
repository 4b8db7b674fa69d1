"""How fast the generation loop writes: `python benchmarks/decode_speed.py [--smollm2] [--batch 1 32]`.

A `TextDecoder` with random weights over a memory of 64 vectors, or with `--smollm2` a decoder of the shape of
SmolLM2-135M after a prompt of 64 tokens (128 new tokens). Prints tokens/s for each way of writing and batch,
prompt included, the median of the repeats, after a call that compiles. bfloat16 on a GPU. No row ends early.
`--rows 1 2` compares, in one run, a single row read alone and read twice (see `backend.fewest_rows`).
With `--smollm2 --transformers` the greedy generate of transformers is called in turn with ours, on a model of
the same shape and precision, and the ratio is printed.
"""

import argparse
import time

import numpy as np

from saccade import backend
from saccade.decoding.settings import GenerationConfig
from saccade.generate import Writer
from saccade.heads.text import TextDecoder
from saccade.layers.embeddings import TokenEmbedding
from saccade.models.llama import Llama, LlamaConfig
from saccade.train import profile

PROMPT = 64
WAYS = {
    "greedy": {},
    "sampling": {"temperature": 1.0},
    "top_k 50": {"temperature": 1.0, "top_k": 50},
    "top_p 0.95": {"temperature": 1.0, "top_p": 0.95},
    "4 beams": {"num_beams": 4},
    "lookup 4": {"prompt_lookup_num_tokens": 4},
}


def text_decoder(options: argparse.Namespace):
    """A decoder and its vocabulary size."""
    vocab_size, dim = options.vocab_size, options.dim
    embedding = TokenEmbedding(vocab_size, dim, options.tokens, dtype=options.precision)
    embedding.build()
    decoder = TextDecoder(embedding, options.depth, dim // 64, dim * 8 // 3, dtype=options.precision)
    decoder.build()
    return decoder, vocab_size


def smollm2(options: argparse.Namespace):
    """A decoder and its vocabulary size."""
    config = LlamaConfig()
    decoder = Llama(config, dtype=options.precision)
    decoder.build()
    return decoder, config.vocab_size


def transformers_greedy(config: LlamaConfig, tokens: np.ndarray, options: argparse.Namespace):
    """A call that writes as many tokens with transformers' own generate."""
    import torch
    from transformers import LlamaConfig as TorchConfig
    from transformers import LlamaForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = TorchConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.dim,
        num_hidden_layers=config.depth,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        intermediate_size=config.mlp_dim,
        max_position_embeddings=config.max_length,
        rope_theta=config.rope_theta,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(shape).to(device, getattr(torch, options.precision)).eval()
    prompt = torch.from_numpy(tokens).long().to(device)
    length = {"max_new_tokens": options.tokens, "min_new_tokens": options.tokens}

    def write():
        with torch.inference_mode():
            written = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=False, pad_token_id=0, **length
            )
        assert written.shape[1] == tokens.shape[1] + options.tokens
        return written.cpu()

    return write


def compare(config: LlamaConfig, write, tokens: np.ndarray, options: argparse.Namespace) -> None:
    """Both, in turn; prints transformers' speed and the ratio of the medians."""
    theirs = transformers_greedy(config, tokens, options)
    times: dict = {"ours": [], "theirs": []}
    for repeat in range(1 + options.repeats):
        for name, function in (("ours", write), ("theirs", theirs)):
            start = time.perf_counter()
            function()
            if repeat:
                times[name].append(time.perf_counter() - start)
    ours, seconds = (float(np.median(times[name])) for name in ("ours", "theirs"))
    speed = len(tokens) * options.tokens / seconds
    print(
        f"{'transformers':12} batch {len(tokens):3} {speed:8.0f} tokens/s   ours in turn with it: "
        f"{seconds / ours:.2f} times as fast",
        flush=True,
    )


def median_s(function, repeats: int) -> tuple[float, float]:
    """Seconds of the first call, which compiles, and the median of the others."""
    times = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return times[0], float(np.median(times[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smollm2", action="store_true", help="the shape of SmolLM2-135M, no TextDecoder")
    parser.add_argument("--transformers", action="store_true", help="its greedy generate beside ours")
    parser.add_argument("--dim", type=int, default=576)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--tokens", type=int, help="new tokens; default: 64, with --smollm2 128")
    parser.add_argument("--batch", type=int, nargs="+", help="default: 1 8, with --smollm2 1 32")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--precision", help="default: bfloat16, on a CPU float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--rows", type=int, nargs="+", help="fewest rows of a step, by turns; default: the backend's"
    )
    parser.add_argument(
        "--profile", metavar="DIR", help="write a JAX profile of one more run there, and show what takes long"
    )
    options = parser.parse_args()
    options.tokens = options.tokens or (128 if options.smollm2 else 64)
    options.batch = options.batch or ([1, 32] if options.smollm2 else [1, 8])
    options.rows = options.rows or [backend.fewest_rows()]
    options.precision = options.precision or ("float32" if backend.device_name() == "cpu" else "bfloat16")
    decoder, vocab_size = (smollm2 if options.smollm2 else text_decoder)(options)
    print(
        f"device={backend.device_name()} parameters={decoder.count_params():,} tokens={options.tokens} "
        f"precision={options.precision}"
    )
    for way in options.ways:
        for rows in options.batch:
            for fewest in options.rows if rows == 1 else options.rows[:1]:
                time_writing(decoder, vocab_size, way, rows, fewest, options)


def time_writing(decoder, vocab_size: int, way: str, rows: int, fewest: int, options) -> None:
    """Print how fast a batch of random prompts is written on."""
    # A word that the model does not have never ends a text.
    settings = GenerationConfig(max_new_tokens=options.tokens, eos_token_id=vocab_size, **WAYS[way])
    rng = np.random.default_rng(0)
    read = rng.normal(size=(rows, PROMPT, decoder.blocks[0].mlp.dim)).astype(np.float32)
    tokens = rng.integers(vocab_size, size=(rows, PROMPT)).astype(np.int32)
    prompt = (backend.to_device(read.astype(options.precision)), np.ones((rows, PROMPT), bool))
    known = {"tokens": tokens} if options.smollm2 else {}
    vars(backend)["fewest_rows"] = lambda: fewest
    writer = Writer(decoder)

    def write():
        writer.generate(prompt, settings, **known)

    first, seconds = median_s(write, options.repeats)
    what = f"{way:12} batch {rows:3}" + (f" as {fewest}" if rows < fewest else "")
    speed = rows * options.tokens / seconds
    print(f"{what:26} {speed:8.0f} tokens/s   first call {first:.1f} s", flush=True)
    if options.transformers and options.smollm2 and way == "greedy":
        compare(decoder.config, write, tokens, options)
    if options.profile:
        with profile.recorded(options.profile, options.tokens):
            write()


if __name__ == "__main__":
    main()
