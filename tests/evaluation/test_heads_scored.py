"""Heads by the official rule: scripted heads whose scores are known, real heads, and decoded predictions."""

import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import ops

from saccade.data.image import letterbox
from saccade.data.readers import Row
from saccade.errors import SaccadeError
from saccade.evaluation.heads import RULE_OF, evaluate_head, predictions
from saccade.evaluation.rules import RULES, score_predictions
from saccade.features import FeatureSet, from_arrays
from saccade.heads.create import create_vlm_head
from saccade.heads.task import VLMTaskConfig

N = 7
WORDS = ("yes", "no", "2")
RNG = np.random.default_rng(0)


class Head(keras.layers.Layer):
    """Its outputs are its features, by name."""

    def __init__(self, task, names, decode=None, **config):
        super().__init__()
        self.config = SimpleNamespace(task=task, **config)
        self.names, self._decode = names, decode

    def call(self, batch):
        return {name: batch[side] for name, side in self.names.items()}

    def decode(self, outputs, *args):
        return self._decode(outputs, *args)


def row(index, **fields):
    return Row(id=str(index), picture=b"", text=f"q{index}", where=f"row {index}", **fields)


def test_vqa():
    said = [WORDS[i % 3] for i in range(N)]
    rows = [row(i, answers=(word,) * 10, answer_type="other") for i, word in enumerate(said)]
    logits = np.eye(3)[[0, 1, 2, 0, 1, 2, 1]]  # the last is wrong
    head = Head(
        "vqa", {"answer_logits": "vision_features"}, num_answers=3,
        decode=lambda outputs, words: [words[i] for i in outputs["answer_logits"].argmax(-1)],
    )  # fmt: skip
    features = from_arrays(logits, np.zeros((N, 2)))
    scores = evaluate_head(head, features, rows, answers=WORDS, batch_size=3, progress=False)
    assert scores["accuracy"] == pytest.approx(6 / 7)
    assert (scores["task"], scores["harness"], scores["num"]) == ("vqa", "vqa", N)
    single = [row(i, answers=(word,)) for i, word in enumerate(said)]
    with pytest.raises(SaccadeError, match="use rule exact"):
        evaluate_head(head, features, single, answers=WORDS, progress=False)
    assert evaluate_head(head, features, single, WORDS, rule="exact", progress=False)["accuracy"] == 6 / 7
    with pytest.raises(SaccadeError, match="answers are 2, the head has 3"):
        evaluate_head(head, features, rows, answers=WORDS[:2], progress=False)
    with pytest.raises(SaccadeError, match="7 features for 6 rows"):
        evaluate_head(head, features, rows[:6], answers=WORDS, progress=False)


def test_boxes_of_the_canvas_become_boxes_of_the_picture(tmp_path):
    picture = np.zeros((10, 40, 3), np.uint8)  # on a square canvas it covers a quarter in height
    placement = letterbox(picture, (20, 20))[1]
    truth = (0.1, 0.2, 0.6, 0.9)
    rows = [row(i, boxes=(truth,)) for i in range(3)]
    found = np.stack([placement.to_canvas(truth), placement.to_canvas((0.1, 0.2, 0.6, 0.5)), (0, 0, 1, 0.1)])
    head = Head("grounding", {"boxes": "vision_features"}, decode=lambda outputs: (outputs["boxes"], None))
    arrays = from_arrays(found, np.zeros((3, 2))).arrays
    features = FeatureSet(arrays, placements=(placement,) * 3)
    scores = evaluate_head(head, features, rows, batch_size=2, progress=False, out=tmp_path / "out")
    assert scores["accuracy"] == pytest.approx(1 / 3)
    assert scores["mean_iou"] == pytest.approx((1 + 3 / 7) / 3, abs=1e-3)
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == scores
    first = json.loads((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()[0])
    assert first["prediction"] == pytest.approx(truth, abs=1e-3)
    assert evaluate_head(head, FeatureSet(arrays), rows, progress=False)["accuracy"] == 0


def test_matching_with_several_captions_of_a_picture():
    groups = ["a", "a", "b", "c", "c", "c"]
    rows = [row(i, group=group) for i, group in enumerate(groups)]
    place = np.array([0, 0, 1, 2, 2, 2])
    images, texts = np.eye(4)[place], np.eye(4)[place]
    texts[3] = np.eye(4)[0]  # a caption of c that fits a
    head = Head("matching", {"image_embeddings": "vision_features", "text_embeddings": "text_features"})
    scores = evaluate_head(head, from_arrays(images, texts), rows, batch_size=4, progress=False)
    assert scores["text_to_image"]["num"] == 6
    assert scores["text_to_image"]["r@1"] == pytest.approx(5 / 6)
    # Another's caption ties with the two of a: it counts as ahead.
    assert scores["image_to_text"] == {
        "num": 3, "r@1": pytest.approx(2 / 3), "r@5": 1, "r@10": 1,
        "median_rank": 1, "mean_rank": pytest.approx(4 / 3),
    }  # fmt: skip
    assert scores["r@1"] == pytest.approx((5 / 6 + 2 / 3) / 2)


@pytest.mark.parametrize("task", ["vqa", "grounding", "matching"])
def test_real_heads_and_batches_of_any_size(task):
    vision, text = RNG.normal(size=(N, 6, 10)), RNG.normal(size=(N, 5, 14))
    mask = np.arange(5) < RNG.integers(1, 6, size=(N, 1))
    features = from_arrays(vision, text, text_mask=mask, grid=(2, 3))
    needs = {"vqa": {"num_answers": 3}, "matching": {"embedding_dim": 8}, "grounding": {}}[task]
    head = create_vlm_head(VLMTaskConfig(task, **features.dims, **needs, dim=16, num_heads=2))
    rows = [
        row(i, answers=("yes",) * 10, answer_type="other", boxes=((0.1, 0.1, 0.6, 0.6),)) for i in range(N)
    ]
    words = WORDS if task == "vqa" else None
    scores = [
        evaluate_head(head, features, rows, answers=words, batch_size=size, progress=False) for size in (3, 7)
    ]
    if task == "vqa":
        assert scores[0] == scores[1]
    json.dumps(scores, allow_nan=False)
    if task == "grounding":
        assert scores[0]["mean_iou"] == pytest.approx(scores[1]["mean_iou"], abs=1e-5)
        boxes = head.decode(head(features[:]))[0]
        assert scores[0]["mean_iou"] == pytest.approx(
            score_predictions("grounding", boxes, rows)["mean_iou"], abs=1e-5
        )
    if task == "matching":
        assert scores[0]["r@1"] == scores[1]["r@1"]


def test_a_head_that_writes():
    said = [("a red ball on a table", "a ball"), ("two dogs run", "dogs")]
    rows = [row(i, answers=texts) for i, texts in enumerate(said)]
    head = Head("captioning", {"logits": "vision_features"})
    features = from_arrays(np.arange(2)[:, None], np.zeros((2, 1)))

    def predict(batch):
        return [said[int(i)][0] for i in np.asarray(batch["vision_features"])[:, 0]]

    scores = evaluate_head(head, features, rows, predict=predict, progress=False)
    assert scores["bleu_1"] == pytest.approx(1)
    assert scores["cider_d"] > 3
    assert scores["harness"] == "caption"
    head = Head("other", {"logits": "vision_features"})
    with pytest.raises(SaccadeError, match="task 'other' has no rule of its own"):
        evaluate_head(head, features, rows, progress=False)


def test_a_dialogue_head_ranks_its_candidates():
    """The outputs' candidate scores are what the rule reads; a last batch that is filled up adds nothing."""
    logits = np.array([[0.1, 0.9, 0.5], [0.2, 0.7, 0.1], [0.9, 0.3, 0.1]])
    rows = [row(i, answer_index=index, candidates=("a", "b", "c")) for i, index in enumerate((1, 0, 0))]
    head = Head("dialogue", {"candidate_scores": "vision_features"})
    features = from_arrays(logits, np.zeros((3, 1)))
    scores = evaluate_head(head, features, rows, batch_size=2, progress=False)
    assert scores["mrr"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert (scores["harness"], scores["num"]) == ("dialogue", 3)
    said = predictions(head, features, batch_size=2, progress=False)
    np.testing.assert_allclose(np.stack(said), logits, rtol=1e-6)


def test_dialogue_from_candidate_scores():
    rows = [
        row(0, answer_index=1, candidates=("a", "b", "c"), relevance=(0.0, 1.0, 0.5)),
        row(1, answer_index=0, candidates=("a", "b", "c")),
    ]
    scores = score_predictions(
        "dialogue", ops.convert_to_tensor([[0.1, 0.9, 0.5], [0.2, 0.7, -np.inf]]), rows
    )
    assert scores["mrr"] == pytest.approx(0.75)
    assert scores["r@1"] == 0.5
    assert scores["mean_rank"] == 1.5
    assert (scores["ndcg"], scores["rounds_with_relevance"]) == (pytest.approx(1), 1)
    with pytest.raises(SaccadeError, match="rounds have 2 and 3 scores"):
        score_predictions("dialogue", [[0.1, 0.2], [0.1, 0.2, 0.3]], rows)


def test_dense_captions_from_regions():
    truth = ((0, 0, 0.4, 0.4), (0.5, 0.5, 1, 1))
    rows = [
        row(0, answers=("a red ball", "a wooden table"), boxes=truth),
        row(1, answers=("a dog",), boxes=truth[:1]),
    ]
    right = [
        [{"box": box, "score": 0.9, "caption": text} for box, text in zip(r.boxes, r.answers, strict=True)]
        for r in rows
    ]
    scores = score_predictions("dense_captions", right, rows)
    assert (scores["map"], scores["box_map"]) == (pytest.approx(1), pytest.approx(1))
    assert len(scores["ap"]) == 30
    json.dumps(scores)
    wrong = [[{**region, "caption": "zebra"} for region in regions] for regions in right]
    scores = score_predictions("dense_captions", wrong, rows)
    assert (scores["map"], scores["box_map"]) == (pytest.approx(0), pytest.approx(1))
    none = score_predictions("dense_captions", [[], []], rows)
    assert (none["map"], none["box_map"]) == (0, 0)


def test_rules_are_all_told_and_used():
    assert {RULE_OF[task] for task in RULE_OF} <= {*RULES}
    assert all(rule.text for rule in RULES.values())
    with pytest.raises(SaccadeError, match="unknown rule 'bleu'"):
        score_predictions("bleu", ["a"], [row(0)])
    with pytest.raises(SaccadeError, match="0 predictions for 0 rows"):
        score_predictions("exact", [], [])
    with pytest.raises(SaccadeError, match="knows true, false only"):
        score_predictions("statement", ["yes"], [row(0, answers=("yes",))])
