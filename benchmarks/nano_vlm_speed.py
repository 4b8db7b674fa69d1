"""How fast a nanoVLM trains: `python benchmarks/nano_vlm_speed.py [--torch] [--preset nano_vlm_222m]`.

One JSON line for each way: samples/s, the model FLOPs utilisation, the step's time, compilation and peak
memory. The whole step counts: forward, backward, clipping, AdamW on every parameter; the batch lies on the
device. 128 tokens a row, those of the image and of a text that is learnt whole (`--counted`: its last tokens
only, as when answers are learnt). `--torch` runs transformers' parts put together the same way (SigLIP, pixel
shuffle, Llama; torch.compile, bfloat16 autocast, fused AdamW), in a process of its own.

On a CPU the default is a small batch of a small model, so that it ends within seconds.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np

from saccade import backend
from saccade.evaluation import environment
from saccade.models.nano_vlm import NanoVLM, NanoVLMConfig, preset
from saccade.train import memory, profile
from saccade.train.config import Part, TrainConfig
from saccade.train.engine import Engine
from saccade.train.next_token import NextToken
from saccade.train.stream import Stream

# The published recipe: 2e-3 for the projection, 1e-4 for both backbones.
TRAIN = TrainConfig(
    learning_rate=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.01,
    parts={"projection": Part(learning_rate_scale=20)},
)


def small(config: NanoVLMConfig) -> NanoVLMConfig:
    """The same in small, for a CPU."""
    vision = replace(config.vision, dim=64, depth=2, num_heads=2, mlp_dim=128)
    language = replace(config.language, dim=48, depth=2, num_heads=6, num_kv_heads=2, mlp_dim=96)
    return replace(config, vision=vision, language=replace(language, vocab_size=512))


def flops_per_sample(config: NanoVLMConfig, length: int, counted: int) -> float:
    """FLOPs of matrix products for one row: forward, and backward at twice that. Causal attention counts
    half; logits count where a target does."""
    v, t = config.vision, config.language
    rows, columns = v.grid(v.image_size)
    patches = rows * columns
    see = patches * (3 * v.patch_size**2 * v.dim + v.depth * (4 * v.dim**2 + 2 * v.dim * v.mlp_dim))
    see += v.depth * 2 * patches**2 * v.dim
    join = config.image_tokens * config.shuffle**2 * v.dim * t.dim
    keys = t.dim // t.num_heads * t.num_kv_heads
    read = length * t.depth * (2 * t.dim**2 + 2 * t.dim * keys + 3 * t.dim * t.mlp_dim)
    read += t.depth * length**2 * t.dim
    return 3 * 2.0 * (see + join + read + counted * t.dim * t.vocab_size)


def make_batch(config: NanoVLMConfig, rows: int, length: int, counted: int) -> dict:
    """Random rows: image tokens first, no padding, the last `counted` targets learnt."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(config.language.vocab_size, size=(rows, length)).astype(np.int32)
    image_mask = np.zeros((rows, length), bool)
    image_mask[:, : config.image_tokens] = True
    targets = np.roll(tokens, -1, axis=1)
    targets[:, : length - counted] = -100
    height, width = config.vision.image_size
    images = rng.integers(256, size=(rows, height, width, 3)).astype(np.uint8)
    padding_mask = np.ones((rows, length), bool)
    return {
        "images": images,
        "tokens": tokens,
        "image_mask": image_mask,
        "padding_mask": padding_mask,
        "targets": targets,
    }


def timed(step, wait, steps: int) -> tuple[float, float]:
    """Seconds until the first step is done, and of one step after three more."""
    begin = time.perf_counter()
    step()
    wait()
    first = time.perf_counter() - begin
    for _ in range(3):
        step()
    wait()
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return first, (time.perf_counter() - begin) / steps


def measure(config: NanoVLMConfig, batch: dict, options: argparse.Namespace) -> dict:
    """Saccade's own step."""
    backend.seed_everything(0)
    model = NanoVLM(config, dtype=options.precision)
    rows = options.batch
    train = TRAIN.model_copy(update={"kernels": options.kernels})
    engine = Engine(model, {"chat": Stream(range(rows), list, NextToken(options.chunk), rows)}, train)
    on_device = {key: backend.to_device(value) for key, value in batch.items()}
    state, last = engine.initial_state({"chat": on_device}), None

    def step():
        nonlocal state, last
        state, last = engine.step(engine.push(state, "chat", on_device))

    first, seconds = timed(step, lambda: backend.to_host([last]), options.steps)
    if options.profile:
        with profile.recorded(options.profile, 5):
            for _ in range(5):
                step()
            backend.to_host([last])
    loss = float(backend.to_host([state["metrics"]["loss"]])[0][0])
    loss /= float(backend.to_host([state["metrics"]["loss"]])[0][1])
    predicted = memory.predict(engine, state)
    record = {"way": "saccade", "mean_loss": round(loss, 4), "first_step_s": round(first, 2)}
    if predicted:
        record["predicted_memory_mib"] = {k: round(v / 2**20, 1) for k, v in predicted.parts.items()}
        record["predicted_peak_mib"] = round(predicted.total / 2**20)
    return record | {"seconds": seconds, "memory": backend.memory_peak_bytes()} | environment(model)


def measure_torch(config: NanoVLMConfig, batch: dict, options: argparse.Namespace) -> dict:
    """transformers' parts, put together as the published code does."""
    import torch
    from torch.nn import functional
    from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

    v, t, r = config.vision, config.language, config.shuffle
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    tower = SiglipVisionConfig(
        hidden_size=v.dim,
        num_hidden_layers=v.depth,
        num_attention_heads=v.num_heads,
        intermediate_size=v.mlp_dim,
        image_size=v.image_size[0],
        patch_size=v.patch_size,
        vision_use_head=False,
    )
    decoder = LlamaConfig(
        vocab_size=t.vocab_size,
        hidden_size=t.dim,
        num_hidden_layers=t.depth,
        num_attention_heads=t.num_heads,
        num_key_value_heads=t.num_kv_heads,
        intermediate_size=t.mlp_dim,
        rms_norm_eps=t.epsilon,
        rope_theta=t.rope_theta,
        tie_word_embeddings=True,
        use_cache=False,
        attn_implementation="sdpa",
    )

    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.vision = SiglipVisionModel(tower)
            self.projection = torch.nn.Linear(v.dim * r * r, t.dim, bias=False)
            self.language = LlamaForCausalLM(decoder)

        def forward(self, images, tokens, targets):
            seen = self.vision(pixel_values=images.permute(0, 3, 1, 2)).last_hidden_state
            side = v.image_size[0] // v.patch_size // r
            seen = seen.reshape(-1, side, r, side, r, v.dim).permute(0, 1, 3, 2, 4, 5)
            seen = self.projection(seen.reshape(-1, side * side, r * r * v.dim))
            text = self.language.get_input_embeddings()(tokens[:, seen.shape[1] :])
            hidden = self.language.model(inputs_embeds=torch.cat([seen.to(text.dtype), text], 1))[0]
            logits = self.language.lm_head(hidden[:, seen.shape[1] :])
            wanted = targets[:, seen.shape[1] :].reshape(-1)
            return functional.cross_entropy(logits.reshape(-1, t.vocab_size), wanted, ignore_index=-100)

    model = Both().to(device).train()
    # As the published code: the model is one compiled program, the optimiser is torch's own.
    compiled = torch.compile(model)
    rates = [
        {"params": model.projection.parameters(), "lr": 2e-3},
        {"params": [*model.vision.parameters(), *model.language.parameters()], "lr": 1e-4},
    ]
    optimizer = torch.optim.AdamW(rates, fused=device == "cuda")
    images = torch.from_numpy(batch["images"]).to(device).float() / 255
    tokens, targets = (torch.from_numpy(batch[k]).to(device).long() for k in ("tokens", "targets"))
    total: list = []

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=options.precision != "float32"):
            loss = compiled(images, tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total.append(loss.detach())

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    first, seconds = timed(step, wait, options.steps)
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    loss = float(torch.stack(total).float().mean())
    record = {"way": "torch", "mean_loss": round(loss, 4), "first_step_s": round(first, 2)}
    return record | {"seconds": seconds, "memory": memory, "torch": torch.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="nano_vlm_222m")
    parser.add_argument("--batch", type=int, help="default: 64, on a CPU 4")
    parser.add_argument("--length", type=int, help="tokens of a row; default: those of the image and 79")
    parser.add_argument("--counted", type=int, help="tokens of a row that are learnt; default: all the text")
    parser.add_argument("--steps", type=int, help="timed steps; default: 30, on a CPU 3")
    parser.add_argument(
        "--chunk", type=int, default=NextToken.chunk, help="tokens whose logits exist at once"
    )
    parser.add_argument("--remat", action="store_true", help="recompute activations in the backward pass")
    parser.add_argument(
        "--kernels", action="store_true", help="use saccade.kernels where they fit, on a Hopper GPU"
    )
    parser.add_argument("--torch", action="store_true", help="also run transformers' parts on torch")
    parser.add_argument("--only-torch", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--profile",
        metavar="DIR",
        help="write a JAX profile of five more steps there, and show what takes long",
    )
    options = parser.parse_args()
    if options.torch:  # before JAX takes the device's memory
        arguments = [a for a in sys.argv[1:] if a != "--torch"]
        subprocess.run([sys.executable, __file__, *arguments, "--only-torch"], check=True)
    on_cpu = _on_cpu(options.only_torch)
    config = preset(options.preset, remat=options.remat)
    config = small(config) if on_cpu else config
    options.precision = "float32" if on_cpu else "mixed_bfloat16"
    options.batch = options.batch or (4 if on_cpu else 64)
    options.steps = options.steps or (3 if on_cpu else 30)
    length = options.length or config.image_tokens + 79
    counted = length - config.image_tokens if options.counted is None else options.counted
    batch = make_batch(config, options.batch, length, counted)
    found = (measure_torch if options.only_torch else measure)(config, batch, options)
    seconds = found.pop("seconds")
    done = flops_per_sample(config, length, counted) * options.batch / seconds
    device = _device(options.only_torch)
    peak = backend.peak_flops(device)
    record = {
        "way": found.pop("way"),
        "preset": f"{options.preset}, in small" if on_cpu else options.preset,
        "device": device,
        "samples_per_s": round(options.batch / seconds, 1),
        "step_ms": round(1000 * seconds, 2),
        "tflops": round(done / 1e12, 2),
        "mfu": round(done / peak, 4) if peak else None,
        "peak_memory_mib": round(found.pop("memory") / 2**20),
        "parameters": NanoVLM.count_parameters(config),
        "batch": options.batch,
        "length": length,
        "counted": counted,
        "precision": options.precision,
        "kernels": options.kernels,
    }
    print(json.dumps(record | found), flush=True)


def _device(torch_only: bool) -> str:
    if not torch_only:
        return backend.device_name()
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _on_cpu(torch_only: bool) -> bool:
    return _device(torch_only) == "cpu"


if __name__ == "__main__":
    main()
