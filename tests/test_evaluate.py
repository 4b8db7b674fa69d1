"""Scores against a reasoner whose every answer is scripted, and against a real one."""

import io
import json
import zipfile

import numpy as np
import pytest
import scripted
from PIL import Image
from scripted import BATCH, STEPS, Oracle, pipeline, random_vlm_hrm

from saccade.data.scenes import ANSWERS, Source, caption_is_true
from saccade.data.scenes.nlvr import scene_from_structured
from saccade.data.scenes.render import render
from saccade.errors import SaccadeError
from saccade.evaluation import choose_threshold, evaluate
from saccade.evaluation.texts import conclusion, is_readable
from saccade.metrics.region import iou

NUM = 23  # the last batch is not full


@pytest.fixture(scope="module")
def words():
    return scripted.words()


def measure(reasoner, words, **options):
    given = {"num": NUM, "batch_size": BATCH, "progress": False, **options}
    scores = evaluate(pipeline(reasoner), **given)
    json.dumps(scores, allow_nan=False)  # plain values only
    return scores


def depths(task, **options):
    source = Source(task, split="test", seed=99, **options)
    return np.array([source[i].depth for i in range(NUM)])


@pytest.mark.parametrize("task", ["vqa", "statement", "panels"])
def test_an_oracle_scores_all(words, task):
    scores = measure(Oracle(), words, task=task)
    depth = depths("statement", style="nlvr") if task == "panels" else depths(task)
    assert scores["num"] == NUM
    assert scores["accuracy"] == scores["accuracy_all_steps"] == 1
    assert scores["mean_steps"] == pytest.approx(depth.mean())
    assert scores["spearman_steps_depth"] == pytest.approx(1)
    assert scores["accuracy_by_step"] == [pytest.approx((depth <= k).mean()) for k in range(1, STEPS + 1)]
    assert sum(row["num"] for row in scores["by_depth"].values()) == NUM
    assert all(row["mean_steps"] == int(d) for d, row in scores["by_depth"].items())
    assert sum(row["num"] for row in scores["by_kind"].values()) == NUM


def test_mistakes_are_counted_by_hand(words):
    scores = measure(Oracle(wrong=(0, 7, 22)), words)
    depth = depths("vqa").astype(float)
    depth[[0, 7, 22]] = STEPS
    assert scores["accuracy"] == pytest.approx(20 / NUM)
    assert scores["mean_steps"] == pytest.approx(depth.mean())
    # Every answer has confidence 0.8 + 0.2 / classes: one bin.
    confidence = 0.8 + 0.2 / len(ANSWERS)
    assert scores["calibration_error"] == pytest.approx(abs(20 / NUM - confidence))


def test_too_eager_and_too_careful(words):
    eager = measure(Oracle(), words, threshold=-1.5)
    assert eager["mean_steps"] == 1
    assert eager["accuracy"] == pytest.approx((depths("vqa") == 1).mean())
    assert eager["accuracy_all_steps"] == 1
    assert eager["spearman_steps_depth"] is None
    careful = measure(Oracle(), words, threshold=np.inf)
    assert careful["mean_steps"] == STEPS


def test_the_table_is_monotone_and_holds_the_threshold_in_use(words):
    scores = measure(Oracle(wrong=(3,)), words)
    steps = [row["mean_steps"] for row in scores["thresholds"]]
    assert steps == sorted(steps)
    assert steps[0] == 1
    assert steps[-1] == STEPS
    used = next(row for row in scores["thresholds"] if row["threshold"] == scores["threshold"])
    assert (used["accuracy"], used["mean_steps"]) == (scores["accuracy"], scores["mean_steps"])


def test_ground_compares_boxes_of_the_canvas(words):
    scores = measure(Oracle(wrong=(1, 2)), words, task="ground")
    assert scores["accuracy"] == pytest.approx(21 / NUM)
    assert scores["mean_iou"] == pytest.approx((21 + 2 / 3) / NUM, abs=1e-5)
    assert iou([0, 0, 2, 1], [1, 0, 3, 1]) == pytest.approx(1 / 3)


def test_choose_threshold_takes_the_fewest_steps_that_cost_nothing(words):
    chosen = choose_threshold(pipeline(Oracle()), tasks=("vqa",), num=NUM, batch_size=BATCH)
    # Unsure is -1: at any lower threshold every row stops at once, at -1 each stops when it knows.
    assert chosen["threshold"] == -1.0
    source = Source("vqa", split="val", seed=98)
    assert chosen["mean_steps"] == pytest.approx(np.mean([source[i].depth for i in range(NUM)]))
    assert chosen["tasks"]["vqa"]["accuracy"] == 1
    deceived = choose_threshold(pipeline(Oracle(unsure=5, sure=3)), ("vqa",), num=NUM, batch_size=BATCH)
    assert deceived["mean_steps"] == STEPS  # nothing but taking every step is good enough
    with pytest.raises(SaccadeError, match="no answer at every step"):
        choose_threshold(pipeline(Oracle()), ("caption",))


class Writer:
    """Writes the reference, or what `replace` has for a row."""

    def __init__(self, words, replace, wrong_answers=()):
        self.words, self.replace, self.wrong_answers = words, replace, wrong_answers
        self.row = -BATCH

    def run(self, batch, task, threshold):
        assert task == "caption"
        if threshold != np.inf:
            self.row += BATCH
        return {
            **self.written(batch),
            "steps": np.full(len(batch["tokens"]), 2 if threshold != np.inf else STEPS),
        }

    def explain(self, batch, threshold):
        """Every row halts after two steps, of which the first was wrong."""
        self.row += BATCH
        size = len(batch["tokens"])
        wrong = np.isin(self.row + np.arange(size), self.wrong_answers)
        answers = np.stack([batch["answer"] + 1, batch["answer"] + wrong]) % len(ANSWERS)
        return {
            **self.written(batch),
            "probabilities": np.eye(len(ANSWERS))[answers],
            "steps": np.full(size, 2),
        }

    def written(self, batch):
        tokens = batch["targets"].copy()
        for row, text in self.replace.items():
            if self.row <= row < self.row + BATCH:
                ids = self.words.tokenizer.encode(text)
                tokens[row - self.row] = 0
                tokens[row - self.row, : len(ids)] = ids
        return {"tokens": tokens, "log_probability": np.full(len(tokens), np.log(0.5))}


def test_captions_are_read_and_checked(words):
    scenes = [Source("caption", split="test", seed=99)[i].scene for i in range(NUM)]
    false = f"there are {('nine', 'ten')[len(scenes[4].objects) == 9]} objects, including a red cube."
    assert is_readable(false)
    assert not caption_is_true(false, scenes[4])
    assert not is_readable("red red red")
    scores = measure(Writer(words, {4: false, 21: "red red red"}), words, task="caption")
    assert scores["accuracy"] == scores["accuracy_all_steps"] == pytest.approx(21 / NUM)
    assert scores["unreadable"] == pytest.approx(1 / NUM)
    assert scores["mean_steps"] == 2
    assert scores["max_steps"] == STEPS
    assert scores["calibration_error"] == pytest.approx(21 / NUM - 0.5)
    assert 0 < scores["distinct"] <= 1
    assert sum(row["num"] for row in scores["by_objects"].values()) == NUM


def test_rationales(words):
    source = Source("rationale", split="test", seed=99)
    other = next(a for a in ANSWERS if a != source[5].answer)
    replace = {5: f"so {other}", 6: f"so {source[6].answer}", 12: "nothing"}
    writer = Writer(words, replace, wrong_answers=(0,))
    scores = measure(writer, words, task="rationale")
    assert scores["accuracy"] == pytest.approx(21 / NUM)
    assert scores["exact"] == pytest.approx(20 / NUM)
    assert scores["answer_accuracy"] == pytest.approx(22 / NUM)
    assert scores["agrees_with_answer"] == pytest.approx(20 / NUM)


def test_conclusions():
    assert conclusion("red cubes: 3, so 3") == "3"
    assert conclusion("so also balls: 2, so yes.") == "yes"
    assert conclusion("also 3") == ""


class Retriever:
    """Scripted vectors in the order of the gallery; `match` knows which text belongs to which image."""

    def __init__(self, vector):
        self.vector, self.images, self.texts = vector, [], []

    def embed(self, batch):
        start = len(self.images)
        self.images += [image.tobytes() for image in batch["images"]]
        self.texts += [tokens.tobytes() for tokens in batch["tokens"]]
        rows = range(start, len(self.images))
        return {side: np.stack([self.vector(row, side) for row in rows]) for side in ("images", "texts")}

    def run(self, batch, task, threshold):
        pairs = zip(batch["images"], batch["tokens"], strict=True)
        own = [self.images.index(i.tobytes()) == self.texts.index(t.tobytes()) for i, t in pairs]
        p = np.where(own, 0.9, 0.1)
        return {"probabilities": np.stack([1 - p, p], axis=1), "steps": np.where(own, 3, 1)}


def one_hot(row):
    return np.eye(32)[row]


def test_retrieval_perfect(words):
    reasoner = Retriever(lambda row, side: one_hot(row))
    scores = measure(reasoner, words, task="retrieve", num=16, rerank=0, batch_size=6)
    assert scores["num"] == 16
    assert scores["r@1"] == 1
    assert scores["text_to_image"]["dual"]["before_twin"] == 1
    assert "reranked" not in scores["text_to_image"]


@pytest.mark.parametrize(("rerank", "recall"), [(2, 1.0), (1, 0.5)])
def test_retrieval_reranks_what_the_dual_encoder_found(words, rerank, recall):
    # Twins look alike to the dual encoder: a tie counts as lost, and of two the first is the candidate.
    reasoner = Retriever(lambda row, side: one_hot(row // 2))
    scores = measure(reasoner, words, task="retrieve", num=16, rerank=rerank, batch_size=6)
    for way in ("text_to_image", "image_to_text"):
        assert scores[way]["dual"]["r@1"] == 0
        assert scores[way]["dual"]["r@5"] == 1
        assert scores[way]["dual"]["before_twin"] == 0
        assert scores[way]["reranked"]["r@1"] == recall
        assert scores[way]["reranked"]["before_twin"] == recall
    assert scores["r@1"] == recall
    assert scores["pairs_fused"] == {2: 32, 1: 24}[rerank]


def test_retrieval_random(words):
    rng = np.random.default_rng(0)
    reasoner = Retriever(lambda row, side: rng.normal(size=8))
    scores = measure(reasoner, words, task="retrieve", num=30, rerank=0, batch_size=30)
    assert 9 < scores["text_to_image"]["dual"]["mean_rank"] < 22
    with pytest.raises(SaccadeError, match=r"num is 7.*even"):
        measure(reasoner, words, task="retrieve", num=7)


@pytest.fixture
def nlvr_folder(tmp_path):
    """Two sentences with two examples each; the pictures of an example are all its first order."""
    rows, files = [], {}
    for number in range(4):
        thing = {"type": "square", "color": "Yellow", "size": 20, "x_loc": 10 + number, "y_loc": 40}
        panels = [[thing], [thing], []]
        buffer = io.BytesIO()
        Image.fromarray(render(scene_from_structured(panels))).save(buffer, "PNG")
        name, key = f"{number // 2}-{number % 2}", ("a", "b")[number // 2]
        images = [f"dev-{name}-{k}.png" for k in range(6)]
        files |= dict.fromkeys(images, buffer.getvalue())
        sentence = f"There is atleast one box {key}"
        row = {"id": name, "sentence": sentence, "label": number != 2, "images": images}
        rows.append({**row, "structured_rep": panels})
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with zipfile.ZipFile(tmp_path / "dev_images.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return tmp_path


def test_nlvr_accuracy_and_consistency(words, nlvr_folder):
    options = {"data": "nlvr", "task": "statement", "folder": nlvr_folder, "num": None}
    scores = measure(Oracle(wrong=(3,)), words, **options)
    assert (scores["num"], scores["sentences"]) == (4, 2)
    assert scores["accuracy"] == 0.75
    assert scores["consistency"] == 0.5
    assert scores["split"] == "dev"
    assert "by_depth" not in scores
    scores = measure(Oracle(wrong=(0, 1)), words, orders=6, **options)
    assert scores["num"] == 24
    assert scores["accuracy"] == pytest.approx(22 / 24)
    assert scores["consistency"] == 0.5


def test_files(words, tmp_path):
    scores = measure(Oracle(wrong=(1,)), words, out=tmp_path / "new", name="mine")
    assert json.loads((tmp_path / "new" / "scores.json").read_text()) == scores
    lines = (tmp_path / "new" / "predictions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == NUM
    assert [row["correct"] for row in rows].count(False) == 1
    assert rows[1]["prediction"] != rows[1]["truth"]
    assert rows[2]["id"] == "test-99-2"
    assert rows[2]["text"] == Source("vqa", split="test", seed=99)[2].text
    assert scores["model"] == "mine"
    assert {"data", "task", "split", "seed", "rule", "decoding", "versions"} <= set(scores)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "coco"}, "unknown data 'coco'"),
        ({"task": "sing"}, "unknown task 'sing'"),
        ({"num": 0}, "num is 0"),
        ({"data": "nlvr", "task": "statement"}, "give folder"),
        ({"data": "nlvr", "task": "vqa", "folder": "."}, "statements only"),
        ({"orders": 7}, "orders is 7"),
        ({"orders": 2}, "orders is 2, but scenes has no permutations"),
        ({"folder": "."}, "folder is for published data, not for scenes"),
        ({"split": "dev"}, "unknown split 'dev'"),
    ],
)
def test_refusals(words, options, message):
    with pytest.raises(SaccadeError, match=message):
        measure(Oracle(), words, **options)


@pytest.fixture(scope="module")
def real(words):
    return random_vlm_hrm(words)


def test_one_pass_equals_halting(real, tmp_path):
    from saccade.evaluation.batches import Run, scene_items

    def fresh(threshold):
        items = scene_items(Source("vqa", split="test", seed=99), 14)
        return Run(real, "vqa", items, 14, 7, threshold)

    q_halt = np.concatenate([real.reasoner.trace(b, "vqa")["q_halt"] for _, b in fresh(0).batches()], axis=1)
    threshold = float(np.median(q_halt[0]))
    options = {"num": 14, "batch_size": 7, "threshold": threshold, "progress": False}
    scores = evaluate(real, out=tmp_path, **options)
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert 1 < scores["mean_steps"] < scores["max_steps"]
    results = [real.reasoner.run(batch, "vqa", threshold) for _, batch in fresh(threshold).batches()]
    steps = np.concatenate([result["steps"] for result in results])
    best = np.concatenate([result["probabilities"].argmax(axis=1) for result in results])
    assert [row["steps"] for row in rows] == steps.tolist()
    assert [row["prediction"] for row in rows] == [ANSWERS[i] for i in best]
    again = evaluate(real, **options)
    assert {**again, "seconds": 0} == {**scores, "seconds": 0}


@pytest.mark.parametrize("task", ["ground", "rationale", "retrieve"])
def test_it_runs_on_a_real_model(real, task):
    scores = evaluate(real, task=task, num=4, batch_size=4, rerank=2, progress=False)
    json.dumps(scores, allow_nan=False)
    headline = scores["r@1"] if task == "retrieve" else scores["accuracy"]
    assert 0 <= headline <= 1
    assert scores["num"] == 4
