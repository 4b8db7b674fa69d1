"""Visual question answering: an answer of a fixed set, and its type."""

import keras
import numpy as np
from keras import ops

from saccade.heads.classify import Classifier
from saccade.heads.task import FusedPool, TaskHead, VLMTaskConfig

ANSWER_TYPES = ("yes/no", "number", "other")


@keras.saving.register_keras_serializable(package="saccade")
class VQAHead(TaskHead):
    """Answer and answer type from the pooled fusion.

    Call: batch: as of TaskHead.
    Returns: dict: `answer_logits` float32 (B, num_answers); `answer_type_logits` float32 (B, 3).
    """

    def __init__(self, config: VLMTaskConfig, **kwargs):
        super().__init__(config, **kwargs)
        policy = self.dtype_policy
        self.read = FusedPool(config, dtype=policy, name="read")
        self.answer = Classifier(config.dim, config.num_answers, dtype=policy, name="answer")
        self.answer_type = Classifier(config.dim, len(ANSWER_TYPES), dtype=policy, name="answer_type")
        self.compile_once()

    def build(self, input_shape=None):
        for layer in (self.read, self.answer, self.answer_type):
            layer.build()
        self.built = True

    def call(self, batch):
        pooled = self.read(batch)
        return {"answer_logits": self.answer(pooled), "answer_type_logits": self.answer_type(pooled)}

    def decode(self, outputs: dict, answers=None) -> list:
        """The best answer of each row: its index, or its word where the list of `answers` is given."""
        best = ops.convert_to_numpy(ops.argmax(outputs["answer_logits"], axis=-1)).tolist()
        return best if answers is None else [answers[index] for index in best]


def soft_targets(said: list, answers: list) -> np.ndarray:
    """What people said as targets: min(people who said so / 3, 1) for each of the `answers`.

    An answer outside the set counts for nothing: a row whose answers are all outside is all zeros.

    Args: said: for each row, a list of answers.  answers: the K answers of the head.
    Returns: float32 (B, K).
    Source: VQA v2's accuracy, visualqa.org/evaluation.html.
    """
    index = {answer: k for k, answer in enumerate(answers)}
    targets = np.zeros((len(said), len(answers)), np.float32)
    for row, words in enumerate(said):
        for word in words:
            if word in index:
                targets[row, index[word]] += 1 / 3
    return np.minimum(targets, 1.0)
