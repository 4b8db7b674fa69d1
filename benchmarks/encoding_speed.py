"""Pictures and questions a second that an encoder turns into features: python benchmarks/encoding_speed.py"""

import argparse
import json
import time

from saccade.data.scenes.tasks import Source
from saccade.evaluation import environment
from saccade.features import from_saccade
from saccade.pipeline import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vlm_hrm_scenes")
    parser.add_argument("--num", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    pipeline = load(args.model)
    features = from_saccade(pipeline)
    source = Source("vqa", split="test", seed=99)
    examples = [source[i] for i in range(args.num)]
    rows = [(example.image, example.text) for example in examples]
    features.encode_all(rows, args.batch_size, progress=False)  # compiles
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        features.encode_all(rows, args.batch_size, progress=False)
        seconds.append(time.perf_counter() - start)
    rate = args.num / sorted(seconds)[1]
    print(json.dumps({"images_per_s": round(rate, 1), "num": args.num, **environment(pipeline.model)}))


if __name__ == "__main__":
    main()
