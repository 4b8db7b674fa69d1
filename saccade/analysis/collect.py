"""Questions and statements about images -> the numbers of a report, from one pass in which nothing halts."""

import re
from pathlib import Path as FilePath
from types import SimpleNamespace

import numpy as np

from saccade.analysis import choose
from saccade.analysis.numbers import breakdown, buckets, common
from saccade.analysis.record import Breakdown, Card, Case, Part, Path
from saccade.data.image import letterbox
from saccade.data.readers.files import find, json_lines
from saccade.evaluation.answers import judge_answers, rows_of, score_answers
from saccade.evaluation.batches import Item, Run
from saccade.evaluation.scenes import RULES, nlvr_run, scene_run
from saccade.metrics.reasoning import at_step, halting_steps
from saccade.pipeline import crop_attention

_TOP, _SEEN = 3, 0.005  # answers that a path shows: at most so many, each with more at some step
_WORDS = buckets((8, 11, 14, 17), " words")
# The first that a sentence speaks of is its kind; after the phenomena of Suhr et al. 2017, table 2.
_SENTENCES = (
    ("tower", r"\btowers?\b|\bblocks?\b"),
    ("edge", r"\btouch|\b(edges?|walls?|corners?|base)\b"),
    ("place", r"\b(above|below|under|over|left|right|between|near|nearly|close|closely|next|on top)\b"),
    ("universal", r"\b(each|every|all|both|no|not|none|only)\b"),
    ("count", r"\d|\b(exactly|at ?least|at ?most|more|less|two|three|four|five|six|seven|eight)\b"),
)


class _Remember:
    """A reasoner that keeps what `judge_answers` drops: the answers' probabilities and the attention."""

    def __init__(self, reasoner):
        self._reasoner, self.parts, self.canvas = reasoner, [], (0, 0)

    def trace(self, batch: dict, task: str) -> dict:
        found = self._reasoner.trace(batch, task)
        self.canvas = batch["images"].shape[1:3]
        kept = ("attention", "probabilities", "confidence", "iou")
        self.parts.append({name: np.asarray(found[name], np.float32) for name in kept if name in found})
        return found

    def joined(self, name: str, num: int) -> np.ndarray:
        """(K, N, ...); the last batch is filled up to its shape, its spare rows are left out."""
        return np.concatenate([part[name] for part in self.parts], axis=1)[:, :num]


def kind_of_sentence(text: str) -> str:
    """What an NLVR sentence speaks of: the first of _SENTENCES that is in it, else "existence"."""
    text = text.lower()
    return next((name for name, pattern in _SENTENCES if re.search(pattern, text)), "existence")


def disagreement(folder) -> dict[str, float]:
    """Example -> share of NLVR's raters (`evals`) who judge otherwise than its label, where it has any."""
    found = {}
    for _, entry in json_lines(find(FilePath(folder), "dev.jsonl")):
        votes = entry.get("evals") if isinstance(entry, dict) else None
        if isinstance(votes, dict) and votes:
            label = str(entry["label"]).lower()
            found[str(entry["id"])] = sum(str(vote).lower() != label for vote in votes.values()) / len(votes)
    return found


def collect_images(
    pipeline, data: str, task: str, num, seed, split, batch_size, threshold, folder, orders, progress, options
) -> Part:
    """One task of a pipeline. Arguments as `saccade.analysis.analyse`."""
    run = _plan(pipeline, data, task, num, seed, split, batch_size, threshold, folder, orders, options)
    run.progress, run.label = progress, f"analysing {task}"
    remember = _Remember(pipeline.reasoner)
    run.pipeline = SimpleNamespace(reasoner=remember, processor=pipeline.processor, model=pipeline.model)
    items: list[Item] = []
    rows: list[dict] = []
    parts: list[dict] = []
    for number in run.track(range(run.count), run.count):
        chunk, judged = judge_answers(run, number)
        items += chunk
        rows += rows_of(run, chunk, judged)
        parts.append(judged)
    axes = {name: 0 if name == "truth" else 1 for name in parts[0]}
    traced = {name: np.concatenate([part[name] for part in parts], axis) for name, axis in axes.items()}
    scores = score_answers(rows, {"threshold": run.threshold})
    return _Findings(run, items, traced, scores, remember).part(data, task, folder)


def _plan(pipeline, data, task, num, seed, split, batch_size, threshold, folder, orders, options) -> Run:
    halting = batch_size, threshold, False
    if data == "nlvr":
        return nlvr_run(pipeline, folder, num, orders, *halting)
    return scene_run(pipeline, task, num, seed, split, *halting, options)


class _Findings:
    """What one pass gave, row by row."""

    def __init__(self, run: Run, items: list[Item], traced: dict, scores: dict, remember: _Remember):
        self.run, self.items, self.traced, self.scores, self.remember = run, items, traced, scores, remember
        self.images = [item.example.image for item in items]
        self.steps = halting_steps(traced["q_halt"], run.threshold)
        self.correct = at_step(traced["correct"], self.steps)
        self.confidence = at_step(traced["confidence"], self.steps)
        self.choice = traced["choice"][self.steps - 1, np.arange(len(items))]
        self.boxes = run.task == "ground"

    def part(self, data: str, task: str, folder) -> Part:
        nlvr = data == "nlvr"
        texts = [item.example.text for item in self.items]
        kinds = [kind_of_sentence(text) for text in texts] if nlvr else [i.example.kind for i in self.items]
        words = [len(text.split()) for text in texts]
        difficulty = np.array(words if nlvr else [item.example.depth for item in self.items])
        most = len(self.traced["q_halt"])
        card = self._card
        pairs = () if self.boxes else choose.confusions(self.correct, *self._words(), card)
        failures = choose.surest(self.correct, self.confidence, card) + choose.by_kind(
            self.correct, kinds, card
        )
        breakdowns, notes = self._breakdowns(nlvr, kinds, words, folder)
        return Part(
            task=task,
            rule=RULES["nlvr" if nlvr else task],
            decoding=f"halts where the logit exceeds {self.run.threshold:g}, at most {most} steps",
            scores=self.scores,
            difficulty="words" if nlvr else "program depth",
            breakdowns=breakdowns,
            confusions=pairs,
            failures=failures,
            cases=tuple(self._case(*chosen) for chosen in choose.corners(self.correct, self.steps, kinds)),
            notes=notes,
            **common(
                self.traced["q_halt"],
                self.traced["correct"],
                self.traced["confidence"],
                difficulty,
                _WORDS if nlvr else str,
                self.run.threshold,
            ),
        )

    def _breakdowns(self, nlvr: bool, kinds, words, folder) -> tuple[tuple[Breakdown, ...], tuple[str, ...]]:
        def split(name, title, labels, order=lambda label: label):
            return breakdown(name, title, labels, self.correct, self.steps, order)

        by_kind = split("kind", "By what the sentence speaks of" if nlvr else "By kind of program", kinds)
        if not nlvr:
            scene = [item.example.scene for item in self.items]
            objects = [len(s.objects) for s in scene]
            depth = [str(item.example.depth) for item in self.items]
            return (
                split("depth", "By program depth (hops)", depth, int),
                by_kind,
                split("objects", "By number of objects", [str(count) for count in objects], int),
            ), ()
        ranges = list(map(_WORDS, range(max(words) + 1)))
        by_length = split("length", "By sentence length", list(map(_WORDS, words)), ranges.index)
        votes = disagreement(folder)
        rated = [votes.get(item.id.rpartition("-")[0]) for item in self.items]
        if any(share is None for share in rated):
            note = "This copy of the data has no votes of raters (evals): their disagreement is not shown."
            return (by_length, by_kind), (note,)
        shares = [f"{share:.0%} of raters disagree" for share in rated]
        by_raters = split("raters", "By human disagreement", shares, lambda label: int(label.split("%")[0]))
        return (by_length, by_kind, by_raters), ()

    def _word(self, value) -> str:
        if self.boxes:
            return "box"
        return (
            self.run.pipeline.processor.decode_answer(value)
            if self.run.task == "vqa"
            else ("false", "true")[value]
        )

    def _words(self) -> tuple[list[str], list[str]]:
        return [self._word(value) for value in self.traced["truth"]], [self._word(v) for v in self.choice]

    def _card(self, row: int) -> Card:
        step = int(self.steps[row])
        if self.boxes:
            truth, answer = "its box", f"IoU {self.traced['iou'][step - 1, row]:.2f}"
        else:
            truth, answer = self._word(self.traced["truth"][row]), self._word(self.choice[row])
        item, confidence = self.items[row], float(self.confidence[row])
        return Card(item.id, item.example.text, truth, answer, step, confidence, self.images[row])

    def _case(self, row: int, why: str) -> Case:
        num, step, card = len(self.items), int(self.steps[row]), self._card(row)
        placement = letterbox(self.images[row], self.remember.canvas)[1]
        attention = self.remember.joined("attention", num)[:step, row]
        boxes = true_box = None
        if self.boxes:
            paths = tuple(
                Path(label, np.asarray(self.traced[name][:, row], np.float32))
                for label, name in (("IoU", "iou"), ("confidence", "confidence"))
            )
            boxes = placement.to_image(self.traced["choice"][:step, row])
            true_box = placement.to_image(self.traced["truth"][row])
            answers = tuple(f"IoU {value:.2f}" for value in paths[0].values[:step])
        else:
            shares = self.remember.joined("probabilities", num)[:, row]
            most = shares.max(axis=0)
            best = [int(answer) for answer in np.argsort(-most, kind="stable")[:_TOP] if most[answer] > _SEEN]
            paths = tuple(Path(self._word(answer), shares[:, answer]) for answer in best)
            answers = tuple(self._word(int(answer)) for answer in shares[:step].argmax(axis=1))
        return Case(
            card=card,
            why=why,
            correct=bool(self.correct[row]),
            halting=sigmoid(self.traced["q_halt"][:, row]),
            paths=paths,
            answers=answers,
            attention=np.stack([crop_attention(grid, placement) for grid in attention]),
            boxes=boxes,
            true_box=true_box,
        )


def sigmoid(logits) -> np.ndarray:
    """Logits as probabilities, float32."""
    return (1 / (1 + np.exp(-np.asarray(logits, np.float64)))).astype(np.float32)
