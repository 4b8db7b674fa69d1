"""Scenes a second on one core, by stage: `python benchmarks/scenes_render.py [--count N]`."""

import argparse
import time

import numpy as np

from saccade.data.scenes.edit import edit_scene
from saccade.data.scenes.render import render
from saccade.data.scenes.sample import sample_scene

CASES = {
    "world": {},
    "world, occlusion": {"occlusion": True},
    "world, 10 objects, 128 px": {"num_objects": 10, "size_px": (128, 128)},
    "nlvr": {"style": "nlvr"},
}


def timed(function, items):
    """Mean microseconds of function(item), and the results."""
    start = time.perf_counter()
    results = [function(item) for item in items]
    return (time.perf_counter() - start) / len(items) * 1e6, results


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3000, help="scenes of each case")
    count = parser.parse_args().count
    print(f"{'case':28}{'sample us':>11}{'cold us':>10}{'render us':>11}{'edit us':>10}{'scenes/s':>10}")
    for name, options in CASES.items():
        rng = np.random.default_rng(0)
        sample_us, scenes = timed(
            lambda _, rng=rng, options=options: sample_scene(rng, **options), range(count)
        )
        cold_us, _ = timed(render, scenes)  # sprites not seen before are drawn and kept
        render_us, _ = timed(render, scenes)
        edit_us, _ = timed(lambda scene, rng=rng: edit_scene(rng, scene), scenes)
        rate = 1e6 / (sample_us + render_us)
        print(f"{name:28}{sample_us:11.0f}{cold_us:10.0f}{render_us:11.0f}{edit_us:10.0f}{rate:10.0f}")
    print("scenes/s: sample + render once the sprites are cached; cold: the first pass over the same scenes")


if __name__ == "__main__":
    main()
