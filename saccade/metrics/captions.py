"""Captions as text against reference captions: tokenised, then scored by every caption metric."""

from collections.abc import Sequence

from saccade.metrics.cider import DocumentFrequencies, cider_d
from saccade.metrics.meteor import meteor_exact_stem
from saccade.metrics.ptb import tokenize
from saccade.metrics.text import bleu, rouge_l


def caption_scores(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    frequencies: DocumentFrequencies | None = None,
) -> dict[str, float]:
    """bleu_1 to bleu_4, rouge_l, meteor_exact_stem, in [0, 1], and cider_d, in [0, 10], of the corpus.

    Args:
        predictions: N captions.  references: for each, one or more captions.
        frequencies: for CIDEr-D; None = of these references (see cider_d).
    Raises: ValueError: not as many lists of references as predictions, or one of them empty.
    """
    ours = [tokenize(text) for text in predictions]
    theirs = [texts if isinstance(texts, str) else [tokenize(text) for text in texts] for texts in references]
    scores = {f"bleu_{order}": float(score) for order, score in enumerate(bleu(ours, theirs).corpus, 1)}
    return {
        **scores,
        "rouge_l": float(rouge_l(ours, theirs).corpus),
        "cider_d": float(cider_d(ours, theirs, frequencies).corpus),
        "meteor_exact_stem": float(meteor_exact_stem(ours, theirs).corpus),
    }
