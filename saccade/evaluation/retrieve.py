"""Retrieval among minimal-edit twins: the dual encoder alone, and reranked by the fused model.

Protocol. The gallery is N images with one description each: N / 2 scenes of the `retrieve` source and their
twins, which differ in one thing. Every description names every object with all its attributes, so it is true
of its own image and false of the twin's. In both directions one of the N candidates is right. "dual" ranks
by cosine. "reranked" takes the `rerank` best of those, orders them by the fused model's log-odds of `match`
(the cosine decides between equal odds), and leaves the others behind them in their order: what the dual
encoder did not put among the best stays lost. What ties with the right one is counted as ranked before it.
"""

import numpy as np

from saccade.errors import SaccadeError
from saccade.evaluation.batches import Item, Run, collate, common_length
from saccade.metrics.retrieval import rank_scores, top_candidates, true_ranks

_TINY = np.finfo(np.float32).tiny


def check_gallery(num: int) -> None:
    """Raises: SaccadeError: the number of images is odd: scenes come with their twins."""
    if num < 2 or num % 2:
        raise SaccadeError(
            f"num is {num}: a retrieval gallery holds scenes and their twins; use an even number"
        )


def predict_retrieval(run: Run, rerank: int) -> list[dict]:
    """A row for each text and the image of the same place, the whole gallery at once.

    `run.items` are total / 2 examples with twins. A row keeps the ranks that its text and its image have both
    ways, whether the right one came before its twin, and what fusing its image's candidates took.
    """
    items, gallery = _items(run), {}
    if hasattr(run.pipeline, "reasoner"):
        gallery = _gallery(run, items)
        vectors = _embed(run, gallery)
        similarity = vectors["images"] @ vectors["texts"].T  # [image, text]
    else:  # a CLIP or BLIP-2, of which the dual encoder alone is asked
        rerank = 0
        images, texts = zip(*((item.example.image, item.example.text) for item in items), strict=True)
        similarity = run.pipeline.retrieve(images, texts).similarity
    twins = np.arange(len(items)) ^ 1
    ways = {"text_to_image": similarity.T, "image_to_text": similarity}
    found: dict = {way: {"dual": _ranks(cosine, None, twins)} for way, cosine in ways.items()}
    if not rerank:
        return _predictions(items, found, ways["text_to_image"], None, None)
    wanted = {way: _mask(top_candidates(cosine, rerank), len(items)) for way, cosine in ways.items()}
    odds, confidence, steps = _fuse(run, gallery, wanted["image_to_text"] | wanted["text_to_image"].T)
    fused = {"text_to_image": odds.T, "image_to_text": odds}
    for way, cosine in ways.items():
        fused[way] = np.where(wanted[way], fused[way], -np.inf)
        found[way]["reranked"] = _ranks(fused[way], cosine, twins)
    rows = _predictions(items, found, ways["text_to_image"], fused["text_to_image"], (confidence.T, steps.T))
    for row, taken in zip(rows, steps, strict=True):
        row |= {"pairs_fused": int((taken > 0).sum()), "steps_fused": int(taken.sum())}
    return rows


def score_retrieval(rows: list[dict], settings: dict) -> dict:
    """From predictions alone: R@1 of the better informed ranking, both ways, before the details."""
    ways = ("text_to_image", "image_to_text")
    kinds = tuple(rows[0]["ranks"][ways[0]])
    scores: dict = {way: {kind: _scores(rows, way, kind) for kind in kinds} for way in ways}
    if "pairs_fused" in rows[0]:
        scores["pairs_fused"] = sum(row["pairs_fused"] for row in rows)
        scores["mean_steps"] = sum(row["steps_fused"] for row in rows) / scores["pairs_fused"]
    return {"r@1": float(np.mean([scores[way][kinds[-1]]["r@1"] for way in ways])), **scores}


def _items(run: Run) -> list[Item]:
    items = []
    for item in run.items:
        pair = (item.example, item.example.pair)
        items += [Item(f"{item.id}-{side}", example) for side, example in zip("ab", pair, strict=True)]
    return items


def _gallery(run: Run, items: list[Item]) -> dict[str, np.ndarray]:
    examples = [item.example for item in items]
    length = common_length(run.pipeline.processor, examples)
    parts = [
        collate(run.pipeline.processor, "caption", examples[i : i + run.batch_size], length)
        for i in range(0, len(examples), run.batch_size)
    ]
    names = ("images", "tokens", "padding_mask")
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _batches(run: Run, gallery: dict, images: np.ndarray, texts: np.ndarray):
    """(slice, batch) of image i with text j; the last batch is filled up with its first row."""
    size = min(run.batch_size, len(images))
    starts = range(0, len(images), size)
    for start in run.track(starts, len(starts)):
        part = slice(start, min(start + size, len(images)))
        spare = [part.start] * (size - (part.stop - part.start))
        rows = np.concatenate([np.arange(part.start, part.stop), spare]).astype(int)
        yield (
            part,
            {
                "images": gallery["images"][images[rows]],
                "tokens": gallery["tokens"][texts[rows]],
                "padding_mask": gallery["padding_mask"][texts[rows]],
            },
        )


def _embed(run: Run, gallery: dict) -> dict[str, np.ndarray]:
    each = np.arange(len(gallery["images"]))
    found = [
        {
            name: values[: part.stop - part.start]
            for name, values in run.pipeline.reasoner.embed(batch).items()
        }
        for part, batch in _batches(run, gallery, each, each)
    ]
    return {name: np.concatenate([part[name] for part in found]) for name in ("images", "texts")}


def _fuse(run: Run, gallery: dict, wanted: np.ndarray):
    """Log-odds, probability, steps of `match` for the wanted pairs, each (N, N); -inf, 0, 0 elsewhere."""
    images, texts = np.nonzero(wanted)
    odds = np.full(wanted.shape, -np.inf)
    probability, steps = np.zeros(wanted.shape), np.zeros(wanted.shape, int)
    for part, batch in _batches(run, gallery, images, texts):
        result = run.pipeline.reasoner.run(batch, "match", run.threshold)
        p = np.maximum(result["probabilities"][: part.stop - part.start].astype(np.float64), _TINY)
        where = images[part], texts[part]
        odds[where] = np.log(p[:, 1]) - np.log(p[:, 0])  # close to 1 the odds still tell pairs apart
        probability[where] = p[:, 1]
        steps[where] = result["steps"][: part.stop - part.start]
    return odds, probability, steps


def _mask(columns: np.ndarray, size: int) -> np.ndarray:
    mask = np.zeros((len(columns), size), bool)
    np.put_along_axis(mask, columns, True, axis=1)
    return mask


def _ranks(scores: np.ndarray, tie_break, twins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ranks of the right ones, from 1, and whether they come before their twins."""
    each = np.arange(len(scores))
    own, twin = scores[each, each], scores[each, twins]
    before = own > twin
    if tie_break is not None:
        before |= (own == twin) & (tie_break[each, each] > tie_break[each, twins])
    return true_ranks(scores, tie_break), before


def _scores(rows: list[dict], way: str, kind: str) -> dict:
    ranks = np.array([row["ranks"][way][kind] for row in rows])
    before = [row["before_twin"][way][kind] for row in rows]
    return {**rank_scores(ranks), "before_twin": float(np.mean(before))}


def _predictions(items, found, cosine, fused, told) -> list[dict]:
    """For each text, the image that came first."""
    first = cosine if fused is None else fused
    kind = "dual" if fused is None else "reranked"
    rows = []
    for i, item in enumerate(items):
        best = int(np.lexsort((-cosine[i], -first[i]))[0])
        ranks, before = (
            {way: {name: part[at][i].item() for name, part in kinds.items()} for way, kinds in found.items()}
            for at in (0, 1)
        )
        rows.append(
            {
                "id": item.id,
                "text": item.example.text,
                "truth": item.id,
                "prediction": items[best].id,
                "rank": ranks["text_to_image"][kind],
                "steps": int(told[1][i, best]) if told else None,
                "confidence": round(float(told[0][i, best] if told else cosine[i, best]), 4),
                "ranks": ranks,
                "before_twin": before,
            }
        )
    return rows
