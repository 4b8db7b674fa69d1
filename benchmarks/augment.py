"""Images a second on one core, by step: `python benchmarks/augment.py [--count N] [--size 224]`.

CPU time of one process on rendered scenes with three boxes and a text. "together" is crop, flip, color and
erasing, each on every image; "and back" also puts the result onto a canvas of the first size; "of noise" is
"together" on random pixels, which are the slowest to clip. --picture OUT.png draws an example of each step.
"""

import argparse
import time
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from saccade.data.augment import (
    SCENE_SYNONYMS,
    Augment,
    ColorJitter,
    Erasing,
    HorizontalFlip,
    Item,
    NegativeSampler,
    RandomCrop,
    SynonymReplacement,
    WordMasking,
)
from saccade.data.image import letterbox
from saccade.data.scenes.captions import caption
from saccade.data.scenes.render import render
from saccade.data.scenes.sample import sample_scene

TOGETHER = (RandomCrop(), HorizontalFlip(), ColorJitter(), Erasing())
STEPS = {
    "crop": TOGETHER[0],
    "flip": TOGETHER[1],
    "color": TOGETHER[2],
    "erasing, mean": TOGETHER[3],
    "erasing, noise": Erasing(fill="noise"),
    "synonyms": SynonymReplacement(SCENE_SYNONYMS),
    "masking": WordMasking(),
}


def per_second(function, items) -> float:
    """Calls of function(rng, item) a second of CPU time, after a warm-up."""
    for index, item in enumerate(items[:20]):
        function(np.random.default_rng(index), item)
    start = time.process_time()
    for index, item in enumerate(items):
        function(np.random.default_rng(index), item)
    return len(items) / (time.process_time() - start)


def make_items(count: int, size: int, *, noise: bool = False) -> list[Item]:
    boxes = np.array([[0.3, 0.3, 0.5, 0.6], [0.5, 0.4, 0.7, 0.5], [0.4, 0.6, 0.6, 0.7]], np.float32)
    rng = np.random.default_rng(0)
    if noise:
        images = [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(16)]
    else:
        images = [render(sample_scene(rng, size_px=(size, size))) for _ in range(16)]
    text = "a large ball left of the cube, a tiny star to the right of it"
    return [Item(images[i % 16], boxes, text) for i in range(count)]


def draw_examples(path: str, side: int = 190) -> None:
    """One scene after each step, its boxes and words with it."""
    scene = sample_scene(np.random.default_rng(365), num_objects=2, size_px=(192, 192), background="grid")
    boxes = np.array([thing.box_px for thing in scene.objects], np.float32) / 192
    item = Item(render(scene), boxes, "the yellow star is left of the cylinder")
    shown = {
        "as it was": item,
        "crop": RandomCrop(area=(0.4, 0.5))(np.random.default_rng(0), item),
        "flip": HorizontalFlip()(np.random.default_rng(0), item),
        "color, as colors are named": ColorJitter()(np.random.default_rng(1), item),
        "color, said to ignore them": ColorJitter(hue=0.5, if_named="ignore")(np.random.default_rng(5), item),
        "erasing": Erasing(area=(0.1, 0.2))(np.random.default_rng(3), item),
    }
    sheet = Image.new("RGB", (3 * (side + 20) + 20, 2 * (side + 50) + 10), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (name, one) in enumerate(shown.items()):
        x, y = 20 + place % 3 * (side + 20), 10 + place // 3 * (side + 50)
        canvas, placement = letterbox(one.image, (side, side))
        sheet.paste(Image.fromarray(canvas), (x, y))
        for x0, y0, x1, y1 in placement.to_canvas(one.boxes) * side:
            pen.rectangle((x + x0, y + y0, x + x1, y + y1), outline=(220, 0, 120), width=2)
        pen.text((x, y + side + 4), name, fill="black")
        pen.text((x, y + side + 18), one.text, fill="gray")
    sheet.save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="images of each row")
    parser.add_argument("--size", type=int, default=224, help="side, pixels")
    parser.add_argument("--picture", help="draw examples into this file, measure nothing")
    options = parser.parse_args()
    if options.picture:
        draw_examples(options.picture)
        return
    items = make_items(options.count, options.size)
    together = Augment(*((step, 1.0) for step in TOGETHER))
    size = options.size, options.size
    rows = {
        **STEPS,
        "together": together,
        "together and back": lambda rng, item: letterbox(together(rng, item).image, size),
    }
    print(f"{options.size} x {options.size} px, one core, CPU time")
    for name, step in rows.items():
        rate = per_second(step, items)
        print(f"{name:20} {rate:9.0f} images/s  {1e6 / rate:7.0f} us")
    rate = per_second(together, make_items(options.count, options.size, noise=True))
    print(f"{'together, of noise':20} {rate:9.0f} images/s  {1e6 / rate:7.0f} us")
    refused = sum(bool(together(np.random.default_rng(i), item).refused) for i, item in enumerate(items))
    print(f"{refused} of {len(items)} had a step refused")
    rng = np.random.default_rng(0)
    captions = {i: [caption(Random(i), sample_scene(rng, num_objects=4))[1]] for i in range(1000)}
    for nearest_of in (1, 32):
        sampler = NegativeSampler(captions, nearest_of=nearest_of)
        rate = per_second(lambda rng, i, sampler=sampler: sampler(rng, i), list(range(1000)))
        print(f"negatives, nearest of {nearest_of:2} {rate:6.0f} captions/s")


if __name__ == "__main__":
    main()
