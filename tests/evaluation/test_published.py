"""Published data sets through scripted answerers, a VLM-HRM and a nanoVLM: each by its official rule."""

import csv
import io
import json
import pickle
import zipfile
from base64 import b64encode
from types import SimpleNamespace

import chat_parts
import numpy as np
import pytest
from answering import Script, run, write_rows
from reader_files import picture, write, write_lines
from typer.testing import CliRunner

import saccade
from saccade.cli import app
from saccade.data.processor import Processor, ProcessorConfig
from saccade.data.text import Tokenizer
from saccade.errors import SaccadeError
from saccade.evaluation import evaluate, merge
from saccade.pipeline import Pipeline


def vqa_v2(folder):
    asked = [{"image_id": 42, "question": f"q{i}?", "question_id": i} for i in (1, 2, 3)]
    words = {1: ["yes"] * 9 + ["no"], 2: ["2"] * 2 + ["3"] * 8, 3: ["a dog"] * 10}
    said = {i: list(enumerate(given)) for i, given in words.items()}
    kinds = {1: "yes/no", 2: "number", 3: "other"}
    notes = [
        {
            "image_id": 42, "question_id": i, "question_type": "what", "answer_type": kinds[i],
            "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": k} for k, a in said[i]],
        }
        for i in (1, 2, 3)
    ]  # fmt: skip
    write(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": asked})
    write(folder / "v2_mscoco_val2014_annotations.json", {"annotations": notes})
    write(folder / "v2_OpenEnded_mscoco_test2015_questions.json", {"questions": asked})
    for split in ("val2014", "test2015"):
        picture(folder / f"{split}/COCO_{split}_000000000042.jpg")


def gqa(folder):
    types = ("query", "rel"), ("verify", "attr"), ("verify", "rel")
    answers = ("bird", "yes", "no")
    entries = {
        str(i): {
            "question": "q",
            "imageId": "1",
            "answer": answers[i],
            "types": {"structural": a, "semantic": b},
        }
        for i, (a, b) in enumerate(types)
    }
    write(folder / "testdev_balanced_questions.json", entries)
    picture(folder / "images/1.jpg")


def pope(folder):
    labels = ("yes", "yes", "no", "no", "no")
    rows = [
        {"question_id": i, "image": "a.jpg", "text": "q", "label": label} for i, label in enumerate(labels)
    ]
    write_lines(folder / "coco_pope_random.json", rows)
    picture(folder / "val2014/a.jpg")


def mmstar(folder):
    content = b64encode(picture(folder / "a.png").read_bytes()).decode()
    text = io.StringIO(newline="")
    names = ("index", "question", "image", "answer", "category", "l2_category")
    table = csv.DictWriter(text, names, delimiter="\t")
    table.writeheader()
    for i, (answer, kind) in enumerate(zip("ABC", ("math", "math", "logic"), strict=True)):
        row = (i, f"Which? A: 1, B: 2, {i}", content, answer, kind, f"{kind} {i}")
        table.writerow(dict(zip(names, row, strict=True)))
    (folder / "MMStar.tsv").write_text(text.getvalue())


def coco_captions(folder):
    images = [{"file_name": f"COCO_val2014_{i:012d}.jpg", "id": i} for i in (1, 2)]
    said = ("a man on a red motorcycle", "a man rides a bike"), ("a girl eats a cake", "a girl with a cake")
    notes = [{"image_id": i + 1, "id": 2 * i + k, "caption": said[i][k]} for i in (0, 1) for k in (0, 1)]
    write(folder / "captions_val2014.json", {"images": images, "annotations": notes})
    for i in (1, 2):
        picture(folder / f"val2014/COCO_val2014_{i:012d}.jpg")


def refcoco(folder):
    refs = [
        {
            "ann_id": i, "ref_id": i, "image_id": 5, "split": "val", "file_name": "x", "category_id": 1,
            "sentences": [{"sent_id": i, "sent": "left dog", "raw": "Left dog", "tokens": []}],
        }
        for i in (0, 1, 2)
    ]  # fmt: skip
    name = picture(folder / "train2014/COCO_train2014_000000000005.jpg").name
    boxes = ([0, 0, 4, 4], [4, 0, 4, 4], [0, 0, 8, 2])
    write(
        folder / "instances.json",
        {
            "images": [{"id": 5, "file_name": name, "height": 4, "width": 8}],
            "annotations": [{"id": i, "image_id": 5, "bbox": box} for i, box in enumerate(boxes)],
        },
    )
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))


def nlvr(folder):
    rows, thing = [], {"type": "square", "color": "Yellow", "size": 20, "x_loc": 10, "y_loc": 40}
    with zipfile.ZipFile(folder / "dev_images.zip", "w") as archive:
        for name, label in (("1-0", "true"), ("1-1", "true"), ("2-0", "false")):
            image = picture(folder / "a.png", 40, 10)
            archive.writestr(f"{name}.png", image.read_bytes())
            row = {"id": name, "sentence": f"s {name}", "label": label == "true", "images": [f"{name}.png"]}
            rows.append({**row, "structured_rep": [[thing], [thing], []]})
    write_lines(folder / "dev.jsonl", rows)


def visdial(folder):
    rounds = [
        {"question": 0, "answer": 3, "answer_options": list(range(100)), "gt_index": 3},
        {"question": 0, "answer": 5, "answer_options": list(range(100)), "gt_index": 5},
    ]
    data = {
        "questions": ["is it"], "answers": [f"a{i}" for i in range(100)],
        "dialogs": [{"image_id": 7, "caption": "c", "dialog": rounds}],
    }  # fmt: skip
    write(folder / "visdial_1.0_val.json", {"data": data})
    relevance = [0.0] * 100
    relevance[5] = relevance[6] = 1.0
    write(
        folder / "visdial_1.0_val_dense_annotations.json",
        [{"image_id": 7, "round_id": 2, "gt_relevance": relevance}],
    )
    picture(folder / "VisualDialog_val2018/VisualDialog_val2018_000000000007.jpg")


def visual_genome(folder):
    write(folder / "image_data.json", [{"image_id": 1, "height": 4, "width": 8}])
    regions = [
        {"phrase": "a red ball", "x": 0, "y": 0, "width": 4, "height": 4},
        {"phrase": "a dog", "x": 4, "y": 0, "width": 4, "height": 4},
    ]
    write(folder / "region_descriptions.json", [{"id": 1, "regions": regions}])
    picture(folder / "VG_100K/1.jpg")


def ranked(best):
    return [float(i == best) for i in range(100)]


LEFT, RIGHT = [0, 0, 0.5, 1], [0.5, 0, 1, 1]
REGIONS = [
    {"box": LEFT, "score": 0.9, "caption": "a red ball"},
    {"box": RIGHT, "score": 0.8, "caption": "a cat"},
]
# data set: what is written, the verb, what is predicted, what is scored
CASES = {
    "vqa_v2": (
        vqa_v2, "answer", {"1": "Yes.", "2": "two", "3": "the dog"},
        {"accuracy": (1 + 0.6 + 0) / 3, "by_type": {"yes/no": 1, "number": 0.6, "other": 0}},
    ),
    "gqa": (
        gqa, "answer", {"0": " Bird.", "1": "no", "2": "no"},
        {"accuracy": 2 / 3, "by_kind": {"query": 1, "verify": 0.5}, "by_axis": {"rel": 1, "attr": 0}},
    ),
    "pope": (
        pope, "answer", {"0": "Yes, there is", "1": "No.", "2": "yes", "3": "no", "4": "There is not one"},
        {"accuracy": 0.6, "precision": 0.5, "recall": 0.5, "f1": 0.5, "yes_ratio": 0.4},
    ),
    "mmstar": (
        mmstar, "answer", {"0": "The answer is (A).", "1": "A cat", "2": "D"},
        {"accuracy": 1 / 3, "by_category": {"math": 0.5, "logic": 0}, "unreadable": 1 / 3},
    ),
    "coco_captions": (
        coco_captions, "caption", {"1": "a man on a red motorcycle", "2": "a girl with a cake"},
        {"bleu_1": 1, "bleu_4": 1, "rouge_l": 1},
    ),
    "refcoco": (
        refcoco, "locate", {"0": LEFT, "1": LEFT, "2": None},
        {"accuracy": 1 / 3, "mean_iou": 1 / 3},
    ),
    "nlvr": (
        nlvr, "judge", {"1-0-0": "True", "1-1-0": "it is false", "2-0-0": "No"},
        {"accuracy": 2 / 3, "consistency": 0.5, "sentences": 2},
    ),
    "visdial": (
        visdial, "rank", {"7-1": ranked(3), "7-2": ranked(6)},
        {"r@1": 0.5, "mrr": (1 + 1 / 100) / 2, "mean_rank": 50.5, "rounds_with_relevance": 1},
    ),
    "visual_genome": (visual_genome, "describe", {"1": REGIONS}, {"box_map": 1}),
}  # fmt: skip


@pytest.mark.parametrize("data", CASES)
def test_the_official_rule(data, tmp_path):
    make, verb, script, wanted = CASES[data]
    make(tmp_path)
    answerer = Script(script, verb)
    scores = run(answerer, tmp_path, tmp_path / "out", data=data, rule=None, batch_size=2)
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == scores
    for name, value in wanted.items():
        assert scores[name] == pytest.approx(value, abs=1e-6), name
    assert scores["num"] == len(script)
    prompts = {"caption": "Provide", "judge": "Is this statement"}
    assert all(text.startswith(prompts.get(verb, "")) for text in answerer.texts)
    if len(script) > 1:
        for shard in ("2/2", "1/2"):
            shards = {"out": tmp_path / "shards", "shard": shard, "batch_size": 1}
            run(Script(script, verb), tmp_path, data=data, rule=None, **shards)
        assert merge(tmp_path / "shards") == scores


def test_details_of_some_rules(tmp_path):
    visdial(tmp_path)
    scores = run(Script({"7-1": ranked(3), "7-2": ranked(6)}, "rank"), tmp_path, data="visdial", rule=None)
    # Candidate 6, then 98 without relevance, then 5; two count.
    assert scores["ndcg"] == pytest.approx(1 / (1 + 1 / np.log2(3)))
    visual_genome(tmp_path)
    scores = run(Script({"1": REGIONS}, "describe"), tmp_path, data="visual_genome", rule=None)
    assert 0.5 < scores["map"] < 1  # one caption is right, the other in a word
    coco_captions(tmp_path)
    right = {"1": "a man on a red motorcycle", "2": "a girl with a cake"}
    better = run(Script(right, "caption"), tmp_path, data="coco_captions", rule=None)
    worse = run(
        Script({"1": right["2"], "2": right["1"]}, "caption"), tmp_path, data="coco_captions", rule=None
    )
    for name in ("cider_d", "bleu_4", "rouge_l", "meteor_exact_stem"):
        assert better[name] > worse[name], name


def test_prompts(tmp_path):
    folder = write_rows(tmp_path)
    asked = Script()
    scores = run(asked, folder)
    assert asked.texts[0] == "q0\nAnswer the question using a single word or phrase."
    assert scores["prompt"] == "{text}\nAnswer the question using a single word or phrase."
    asked = Script()
    assert run(asked, folder, prompt="Say: {text}")["prompt"] == "Say: {text}"
    assert asked.texts[3] == "Say: q3"
    asked = Script(follows=False)
    assert run(asked, folder)["prompt"] == "{text}"
    assert asked.texts[0] == "q0"
    with pytest.raises(SaccadeError, match=r"has no \{text\}"):
        run(Script(), folder, prompt="Say it")
    with pytest.raises(SaccadeError, match="takes the text alone"):
        run(Script(follows=False), folder, prompt="{text}")


def test_refusals(tmp_path):
    folder = write_rows(tmp_path / "rows")
    with pytest.raises(SaccadeError, match="unknown rule 'sing'; use one of vqa, exact"):
        run(Script(), folder, rule="sing")
    with pytest.raises(SaccadeError, match="jsonl has no rule of its own"):
        run(Script(), folder, rule=None)
    with pytest.raises(SaccadeError, match=r"use saccade\.evaluation\.heads"):
        run(Script(), folder, rule="retrieval")
    with pytest.raises(SaccadeError, match="cannot locate, which rule grounding"):
        run(Script(), folder, rule="grounding")
    with pytest.raises(SaccadeError, match="has no boxes, which rule grounding needs"):
        run(Script(verb="locate"), folder, rule="grounding")
    with pytest.raises(SaccadeError, match="rule vqa needs several; use rule exact"):
        run(Script(), folder, rule="vqa")
    with pytest.raises(SaccadeError, match="answer 'red', rule yes_no knows yes, no only"):
        run(Script(), folder, rule="yes_no")
    deaf = SimpleNamespace(model=SimpleNamespace(dtype_policy=SimpleNamespace(name="float32")))
    with pytest.raises(SaccadeError, match="answers no questions"):
        run(deaf, folder)
    vqa_v2(tmp_path)
    with pytest.raises(SaccadeError, match="has no answers, which rule vqa needs; use a split that has them"):
        run(Script(), tmp_path, data="vqa_v2", rule=None, split="test2015")
    picture(folder / "a.png").write_bytes(b"no picture")
    chat = SimpleNamespace(chat=None, model=SimpleNamespace(dtype_policy=SimpleNamespace(name="float32")))
    with pytest.raises(SaccadeError, match=r"row 0: .* is not a PNG"):
        run(chat, folder)


@pytest.fixture(scope="module")
def stepping():
    from saccade.models.vit import ViTConfig
    from saccade.models.vlm_hrm import VLMHRM, VLMHRMConfig

    texts = ["is it gray", "left dog", "red blue two q0 q1 q2"]
    sizes = ((16, 24), (24, 16))
    config = ProcessorConfig(
        image_sizes=sizes,
        answers=("red", "blue"),
        max_length=16,
        length_multiple=8,
        lexicon=("is", "it", "left", "dog", "gray"),
    )
    words = Tokenizer.train(texts * 3, 280)
    tower = ViTConfig(dim=10, depth=1, num_heads=2, mlp_dim=14, patch_size=4, image_size=(16, 24), stem=(8,))
    model = VLMHRM(
        VLMHRMConfig(
            vocab_size=words.vocab_size, num_answers=2, vision=tower, dim=24, depth=1, num_heads=3,
            mlp_dim=40,
            halt_max_steps=2, max_length=16, shuffle=2, fusion_tokens=5, decoder_depth=1, embedding_dim=18,
        )
    )  # fmt: skip
    return Pipeline(model, Processor(words, config))


def test_a_vlm_hrm_answers_as_alone_and_refuses_words_it_does_not_know(stepping, tmp_path):
    for number, size in enumerate(((30, 20), (20, 30), (31, 20))):
        picture(tmp_path / f"{number}.png", *size, level=60 * number)
    texts = ("is it gray?", "is it left?", "is it left grayy?", "which motorcycle?")
    rows = [{"image": f"{i % 3}.png", "text": text, "answers": "red"} for i, text in enumerate(texts)]
    write_lines(tmp_path / "rows.jsonl", rows)
    scores = run(stepping, tmp_path, tmp_path / "out", batch_size=4)
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    for row, line in list(zip(rows, lines, strict=True))[:3]:
        alone = stepping.ask(tmp_path / row["image"], row["text"].replace("yy", "y"), task="vqa")
        assert (line["prediction"], line["steps"]) == (alone.text, alone.steps)
        assert line["confidence"] == pytest.approx(alone.confidence, abs=2e-4)
    assert [line.get("note") for line in lines[:3]] == [None, None, lines[2]["note"]]
    assert "'grayy' is read as 'gray'" in lines[2]["note"]
    assert lines[3]["prediction"] == ""
    assert "motorcycle" in lines[3]["refused"]
    assert scores["refused"] == 0.25
    assert scores["accuracy"] == np.mean([line["prediction"] == "red" for line in lines])
    assert scores["decoding"].startswith("halts where the logit exceeds 0")


def test_a_vlm_hrm_halts_where_it_is_told(stepping, tmp_path):
    picture(tmp_path / "a.png", 30, 20)
    write_lines(tmp_path / "rows.jsonl", [{"image": "a.png", "text": "is it gray?", "answers": "red"}] * 2)
    for threshold, steps, said in ((-np.inf, 1, -1e6), (np.inf, 2, 1e6)):
        out = tmp_path / f"{steps}"
        scores = run(stepping, tmp_path, out, threshold=threshold)
        lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
        assert [line["steps"] for line in lines] == [steps, steps]
        assert scores["threshold"] == said
    with pytest.raises(SaccadeError, match="threshold is nan"):
        run(stepping, tmp_path, threshold=np.nan)
    with pytest.raises(SaccadeError, match="threshold is for models that reason in steps, this one does not"):
        run(Script(), tmp_path, threshold=0.0)


def test_a_vlm_hrm_finds_boxes_of_the_picture(stepping, tmp_path):
    refcoco(tmp_path)
    scores = run(stepping, tmp_path, tmp_path / "out", data="refcoco", rule=None)
    line = json.loads((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()[0])
    path = tmp_path / "train2014/COCO_train2014_000000000005.jpg"
    wanted = np.array(stepping.ground(path, "left dog").box_px) / [8, 4, 8, 4]
    assert line["prediction"] == pytest.approx(wanted, abs=1e-4)
    assert 0 <= scores["mean_iou"] <= 1


def test_a_nano_vlm_answers(tmp_path):
    chat = saccade.load(chat_parts.write_model(tmp_path / "model", {"image_token": "<|image|>"}))
    vqa_v2(tmp_path)
    options = {"data": "vqa_v2", "folder": tmp_path, "batch_size": 2, "max_tokens": 4, "progress": False}
    scores = evaluate(chat, out=tmp_path / "out", **options)
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    path = tmp_path / "val2014/COCO_val2014_000000000042.jpg"
    prompt = "q1?\nAnswer the question using a single word or phrase."
    assert lines[0]["prediction"] == chat.ask(path, prompt, max_new_tokens=4).text
    assert scores["decoding"] == "greedy, at most 4 tokens"
    assert scores["num"] == 3
    with pytest.raises(SaccadeError, match="cannot locate"):
        evaluate(chat, **{**options, "data": "refcoco"})


def test_the_command(tmp_path, monkeypatch):
    folder = write_rows(tmp_path / "rows")
    monkeypatch.setattr("saccade.cli.training.load_pipeline", lambda name, *verbs: Script())

    def call(*words):
        return CliRunner().invoke(app, [str(word) for word in words])

    common = ("evaluate", "m", "--data", "jsonl", "--folder", folder, "--rule", "exact", "--batch-size", 4)
    whole = call(*common, "--json")
    assert whole.exit_code == 0, whole.output
    for shard in ("1/2", "2/2"):
        assert call(*common, "--out", tmp_path / "out", "--shard", shard).exit_code == 0
    merged = call("evaluate", "--merge", tmp_path / "out", "--json")
    found, wanted = json.loads(merged.stdout), json.loads(whole.stdout)
    wanted.pop("seconds")
    assert found == wanted
    for words in (("evaluate",), ("evaluate", "m", "--merge", "x")):
        refused = call(*words)
        assert refused.exit_code == 2
        assert "give MODEL, or --merge DIR" in refused.stderr
