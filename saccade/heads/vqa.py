"""Visual question answering: an answer of a fixed set, and its type."""

import keras
import numpy as np
from keras import ops

from saccade.errors import SaccadeError
from saccade.heads.classify import Classifier
from saccade.heads.task import FusedPool, TaskHead, VLMTaskConfig, check_label, check_range

ANSWER_TYPES = ("yes/no", "number", "other")


@keras.saving.register_keras_serializable(package="saccade")
class VQAHead(TaskHead):
    """Answer and answer type from the pooled fusion.

    Call: batch: as of TaskHead. Labels, where given, are checked: `answer_targets` float (B, num_answers) in
        [0, 1], see soft_targets; `answer_types` int (B,), index into ANSWER_TYPES.
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

    def check(self, batch):
        super().check(batch)
        rows = batch["vision_features"].shape[0]
        if check_label(batch, "answer_targets", (rows, self.config.num_answers)):
            targets = batch["answer_targets"]
            if isinstance(targets, np.ndarray) and not ((targets >= 0) & (targets <= 1)).all():
                raise SaccadeError("answer_targets are not all in [0, 1]; make them with soft_targets")
        if check_label(batch, "answer_types", (rows,)):
            check_range("answer_types", batch["answer_types"], len(ANSWER_TYPES), "the number of types")

    def call(self, batch):
        pooled = self.read(batch)
        return {"answer_logits": self.answer(pooled), "answer_type_logits": self.answer_type(pooled)}

    def decode(self, outputs: dict, answers=None) -> list:
        """The best answer of each row: its index, or its word where the list of `answers` is given.

        Raises: SaccadeError: not as many answers as the head has.
        """
        if answers is not None and len(answers) != self.config.num_answers:
            raise SaccadeError(
                f"answers are {len(answers)}, the head has {self.config.num_answers}; give its words"
            )
        best = ops.convert_to_numpy(ops.argmax(outputs["answer_logits"], axis=-1)).tolist()
        return best if answers is None else [answers[index] for index in best]


def soft_targets(said: list, answers: list) -> np.ndarray:
    """What people said as targets: min(people who said so / 3, 1) for each of the `answers`.

    An answer outside the set counts for nothing: a row whose answers are all outside is all zeros.

    Args: said: for each row, a list of answers.  answers: the K answers of the head.
    Returns: float32 (B, K).
    Raises: SaccadeError: a text where the list of what was said of a row belongs.
    Source: VQA v2's accuracy, visualqa.org/evaluation.html.
    """
    index = {answer: k for k, answer in enumerate(answers)}
    targets = np.zeros((len(said), len(answers)), np.float32)
    for row, words in enumerate(said):
        if isinstance(words, str):
            raise SaccadeError(f"said[{row}] is the text {words!r}; give a list of what each person said")
        for word in words:
            if word in index:
                targets[row, index[word]] += 1 / 3
    return np.minimum(targets, 1.0)
