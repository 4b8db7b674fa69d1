"""Writes metrics.json beside this file: what reference implementations say of the texts and boxes below.

    python tests/golden/make_metrics.py

Needs the extra [eval] and, for tokens, stems and METEOR, Java and `javac`. The tests need none of these.
"""

import json
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pycocoevalcap

PACKAGE = Path(next(iter(pycocoevalcap.__path__)))
METEOR_JAR = PACKAGE / "meteor/meteor-1.5.jar"
TOKENIZER_JAR = PACKAGE / "tokenizer/stanford-corenlp-3.4.1.jar"

# A prediction and its references, as people write captions.
CAPTIONS = [
    (
        "a man riding a wave on a surfboard",
        [
            "A man rides a wave on top of a surfboard.",
            "A surfer riding a large wave.",
            "Man surfing in the ocean on a sunny day",
        ],
    ),
    (
        "two dogs are running in the grass",
        [
            "Two dogs run across a green lawn.",
            "A brown dog chases a white dog in the grass.",
            "Dogs running.",
        ],
    ),
    (
        "a plate of food",
        [
            "A plate topped with meat, vegetables and rice.",
            "There is food on the plate",
            "A white plate with a lot of food on it!",
        ],
    ),
    (
        "a cat sitting on a chair next to a cat",
        [
            "The cat is sitting on the chair.",
            "A black-and-white cat sits on a wooden chair.",
            "a cat's tail hangs from a chair",
        ],
    ),
    (
        "a red stop sign on the street",
        ["A stop sign at the corner of the street", 'A red sign that says "STOP"', "stop sign"],
    ),
    (
        "a group of people standing around a table",
        [
            "Several people stand around a table with 3 cakes.",
            "People are standing near the table.",
            "A group of friends at a birthday party",
        ],
    ),
    (
        "a train is coming down the tracks",
        [
            "The train no. 7 is arriving at the station.",
            "A train travels down the train tracks.",
            "A long train (freight) on the tracks",
        ],
    ),
    (
        "a bathroom with a toilet and a sink",
        [
            "A clean bathroom with a toilet and a sink.",
            "The bathroom has a toilet, a sink and a mirror.",
            "a bathroom with a toilet and a sink",
        ],
    ),
    (
        "the boy is playing baseball",
        [
            "A boy swings a bat at a ball.",
            "Young boys playing baseball on a field",
            "A child isn't hitting the ball.",
        ],
    ),
    (
        "a giraffe eating leaves from a tree",
        [
            "A giraffe eats the leaves of a tall tree.",
            "Two giraffes stand by trees.",
            "The giraffe's neck reaches the leaves",
        ],
    ),
    ("a a a a", ["A clock on a tower.", "The clock tower is tall", "a tall tower"]),
    (
        "a kitchen",
        ["A kitchen with stainless steel appliances.", "The kitchen has a stove and an oven.", "Kitchen"],
    ),
    (
        "a man and a woman holding umbrellas in the rain while walking down a busy city street at night",
        [
            "A couple walks in the rain.",
            "People with umbrellas on the street at 10:30 pm",
            "A man and woman hold umbrellas.",
        ],
    ),
    (
        "people flying kites on the beach",
        [
            "People fly kites at the beach.",
            "Many kites are flown over the beach by people",
            "Kite flying -- at the seaside...",
        ],
    ),
    ("a bear", ["Three zebras grazing.", "A zebra eats grass", "Zebras in a field"]),
    (
        "an old truck parked in front of a house",
        [
            "A vintage truck is parked outside of the house.",
            "An old truck sits in front of a building.",
            "The truck's been parked there for 20 years.",
        ],
    ),
]

TEXTS = [
    *[text for prediction, references in CAPTIONS for text in (prediction, *references)],
    "A man's dog doesn't like \"blue\" cars, it's said (really).",
    "I cannot wait; he'd gone, they'll go, we've seen, I'm here, you're not",
    "a black-and-white photo -- a t-shirt - x-ray, and/or 4x4",
    "1,000 people at 2:30pm, 3.5% of $5 & 1/2",
    "a U.S. flag, Mr. Smith on Main St. vs. the others etc.",
    "hello... world … wait?! what!!!",
    "three dogs' bones [in brackets] {curly}",
    "“smart” ‘single’ it’s the children’s",
    "50's cars, o'clock, rock 'n' roll, ma'am",
    "'tis gonna wanna gimme lemme gotta",
    "",
]

WORDS = """
    a abilities ability ably added agreed analogically arsenal atlas babies beautiful beds bled boxed
    boxes buses buzzing canning caresses cars cat's catalogue cats children's cities classes communal
    communism conditional controlled crying cute dancing decisively derived dogs dying early easily
    eating eighth electricity emotional evening exceedingly fallacies falling feed feudalism finally
    flies flying formality gas generously giraffes gently going grazing happily happiness hissing
    hopping hoping horses in inning internal it's jumping kites knives largely lying men motoring
    national news nicely of operator organization organize oven's playful played playing players quickly
    radically rational relational rided rides riding running sensational sensitivity singly sitting
    skies skis sky sliced standing stands stood surfers surfing tables ties toys triplicate ugly
    university usefulness valency vietnamization walked walking waves yellowish yes youth's zebras
""".split()


def java(*arguments, text: str = "") -> str:
    done = subprocess.run(
        ["java", *map(str, arguments)], input=text, capture_output=True, text=True, check=True
    )
    return done.stdout


def reference_tokens(texts: list[str]) -> list[list[str]]:
    """Stanford's tokens less the punctuation that pycocoevalcap removes, split as its scorers split them."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts"
        file.write_text("\n".join(texts) + "\n", encoding="utf-8")
        options = ("-preserveLines", "-lowerCase", file)
        found = java(
            "-Dfile.encoding=UTF-8", "-cp", TOKENIZER_JAR, "edu.stanford.nlp.process.PTBTokenizer", *options
        )
    lines = found.split("\n")[: len(texts)]
    return [[token for token in line.split() if token not in PUNCTUATIONS] for line in lines]


def reference_stems(words: list[str]) -> list[str]:
    source = """
        import java.util.*; import org.tartarus.snowball.*; import edu.cmu.meteor.aligner.*;
        public class Stems { public static void main(String[] a) throws Exception {
            SnowballStemmerWrapper s = new SnowballStemmerWrapper((SnowballStemmer) Class.forName(
                "org.tartarus.snowball.ext.englishStemmer").getDeclaredConstructor().newInstance());
            Scanner in = new Scanner(System.in, "UTF-8");
            while (in.hasNextLine()) System.out.println(s.stem(in.nextLine())); } }"""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Stems.java").write_text(source, encoding="utf-8")
        subprocess.run(["javac", "-cp", METEOR_JAR, "-d", folder, f"{folder}/Stems.java"], check=True)
        return java("-cp", f"{METEOR_JAR}:{folder}", "Stems", text="\n".join(words) + "\n").split("\n")[
            : len(words)
        ]


def reference_meteor(
    predictions: list[list[str]], references: list[list[list[str]]]
) -> tuple[float, list[float]]:
    """Corpus and sentence scores of the program on tokens as they are, exact and stem matches only."""
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours", Path(folder) / "theirs"
        ours.write_text("".join(" ".join(text) + "\n" for text in predictions), encoding="utf-8")
        lines = (" ".join(text) + "\n" for texts in references for text in texts)
        theirs.write_text("".join(lines), encoding="utf-8")
        options = ("-l", "en", "-r", len(references[0]), "-m", "exact stem")
        found = java("-Xmx1G", "-Dfile.encoding=UTF-8", "-jar", METEOR_JAR, ours, theirs, *options)
    each = [float(line.split()[-1]) for line in found.splitlines() if line.startswith("Segment")]
    (corpus,) = [float(line.split()[-1]) for line in found.splitlines() if line.startswith("Final score")]
    return corpus, each


def reference_scores(predictions: list[list[str]], references: list[list[list[str]]]) -> dict:
    """BLEU, ROUGE-L and CIDEr(-D) of pycocoevalcap, which need no Java."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    truth = {i: [" ".join(text) for text in texts] for i, texts in enumerate(references)}
    found = {i: [" ".join(text)] for i, text in enumerate(predictions)}
    bleu, each_bleu = Bleu(4).compute_score(truth, found, verbose=0)
    rouge, each_rouge = Rouge().compute_score(truth, found)
    cider, each_cider = Cider().compute_score(truth, found)
    return {
        "bleu": [list(map(float, bleu)), np.transpose(each_bleu).tolist()],
        "rouge_l": [float(rouge), each_rouge.tolist()],
        "cider_d": [float(cider), each_cider.tolist()],
    }


def boxes_of_images(seed: int = 0, images: int = 12, categories: int = 3) -> list[dict]:
    """Images with true boxes, some of them crowds, and detections near them and elsewhere, in pixels."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(images):
        count = int(rng.integers(0, 6))
        corner, size = rng.integers(0, 80, (count, 2)), rng.integers(16, 60, (count, 2))
        truth = np.concatenate([corner, corner + size], axis=1)
        near = (
            truth[rng.integers(0, count, 3 * count)] + rng.integers(-6, 7, (3 * count, 4)) if count else truth
        )
        stray = rng.integers(0, 80, (3, 2))
        boxes = np.concatenate([near, np.concatenate([stray, stray + 20], axis=1)])
        kinds = rng.integers(0, categories, count)
        guesses = np.where(rng.random(len(boxes)) < 0.8, np.resize(kinds if count else [0], len(boxes)), 0)
        found.append(
            {
                "truth": truth.tolist(),
                "categories": kinds.tolist(),
                "crowd": (rng.random(count) < 0.15).tolist(),
                "boxes": boxes.tolist(),
                "guesses": guesses.tolist(),
                "scores": rng.integers(1, 20, len(boxes)).astype(float).tolist(),  # many are equal
            }
        )
    return found


def _flat(box: list[float]) -> list[float]:
    """xyxy to COCO's xywh."""
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def reference_box_ap(images: list[dict]) -> dict[str, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truths, detections = [], []
    for number, image in enumerate(images):
        for box, kind, crowd in zip(image["truth"], image["categories"], image["crowd"], strict=True):
            x, y, w, h = _flat(box)
            truth = {"image_id": number, "category_id": kind, "bbox": [x, y, w, h], "area": w * h}
            truths.append({**truth, "iscrowd": int(crowd), "id": len(truths) + 1})
        for box, kind, score in zip(image["boxes"], image["guesses"], image["scores"], strict=True):
            detections.append({"image_id": number, "category_id": kind, "bbox": _flat(box), "score": score})
    coco = COCO()
    kinds = sorted({truth["category_id"] for truth in truths})
    coco.dataset = {
        "info": {},
        "images": [{"id": number} for number in range(len(images))],
        "categories": [{"id": kind} for kind in kinds],
        "annotations": truths,
    }
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return {name: float(value) for name, value in zip(("ap", "ap50", "ap75"), evaluation.stats, strict=False)}


def main() -> None:
    tokens = dict(zip(TEXTS, reference_tokens(TEXTS), strict=True))
    predictions = [tokens[prediction] for prediction, _ in CAPTIONS]
    references = [[tokens[text] for text in texts] for _, texts in CAPTIONS]
    corpus, each = reference_meteor(predictions, references)
    images = boxes_of_images()
    record = {
        "made_with": {name: version(name) for name in ("pycocoevalcap", "pycocotools")},
        "captions": CAPTIONS,
        "tokens": tokens,
        "stems": dict(zip(WORDS, reference_stems(WORDS), strict=True)),
        "scores": {**reference_scores(predictions, references), "meteor_exact_stem": [corpus, each]},
        "images": images,
        "box_ap": reference_box_ap(images),
    }
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":")).replace('],"', '],\n"')
    Path(__file__).with_name("metrics.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
