"""Visual dialogue: an answer to the last question, written, or picked from candidates."""

import keras
import numpy as np
from keras import ops

from saccade import losses
from saccade.data.text import PAD
from saccade.errors import SaccadeError
from saccade.heads.task import VLMTaskConfig, check_range
from saccade.heads.writing import WritingHead, check_tokens, texts
from saccade.layers.blocks import EncoderBlock
from saccade.layers.embeddings import lookup
from saccade.layers.normalization import rms
from saccade.layers.pooling import AttentionPooling

ROLES = ("question", "answer", "caption")
RANK_BY = ("score", "likelihood")


@keras.saving.register_keras_serializable(package="saccade")
class DialogueHead(WritingHead):
    """The dialogue so far is the text; each of its tokens is told who says it and how long ago.

    Call: batch: as of TaskHead, and any of
        `turns` int32 (B, T): how many rounds back, 0 = what is asked now, below `max_turns`; `roles` int32
        (B, T): index into ROLES; both of text tokens (B, T, D), see `flatten_history`;
        `response` int32 (B, R): a text, see WritingHead, to be scored;
        `candidates` int32 (B, K, R): texts to be ranked; `candidate_mask` bool (B, K), True = keep. A
        candidate of nothing but PAD is never kept.
    Returns: dict: `logits` float32 (B, R, V) of the response; `candidate_scores` float32 (B, K), -1e9 where
        no candidate is kept; each if the batch has what it is of.
    Source: Visual Dialog, section 5, arXiv:1611.08669: a candidate's score is the product of what is read and
        what it says; the likelihood is that of the generative decoder.
    """

    FEATURES = (*WritingHead.FEATURES, "turns", "roles")

    def __init__(self, config: VLMTaskConfig, **kwargs):
        super().__init__(config, **kwargs)
        c, policy = config, self.dtype_policy
        self.context_pool = AttentionPooling(c.dim, c.num_heads, dtype=policy, name="context_pool")
        self.candidate_block = EncoderBlock(
            c.dim, c.num_heads, 2 * c.dim, dtype=policy, name="candidate_block"
        )
        self.candidate_pool = AttentionPooling(c.dim, c.num_heads, dtype=policy, name="candidate_pool")
        self.match = keras.layers.Dense(c.dim, use_bias=False, dtype="float32", name="match")
        self.compile_once()

    def build(self, input_shape=None):
        super().build()
        for layer in (self.context_pool, self.candidate_block, self.candidate_pool):
            layer.build()
        self.match.build((None, self.config.dim))
        # Small: what is said must outweigh who says it, and when.
        small = keras.initializers.TruncatedNormal(stddev=0.02)
        width = self.config.text_dim
        self.turn_table = self.add_weight((self.config.max_turns, width), small, name="turn_table")
        self.role_table = self.add_weight((len(ROLES), width), small, name="role_table")

    def check_features(self, batch):
        super().check_features(batch)
        shape = tuple(batch["text_features"].shape)
        limits = {"turns": (self.config.max_turns, "max_turns"), "roles": (len(ROLES), "the number of roles")}
        for name, limit in limits.items():
            if batch.get(name) is None:
                continue
            found = tuple(batch[name].shape)
            if len(shape) != 3 or found != shape[:2]:
                raise SaccadeError(f"{name} are {found}, text_features {shape}; give one number a text token")
            check_range(name, batch[name], *limit)

    def check(self, batch):
        self.check_features(batch)
        if "response" not in batch and "candidates" not in batch:
            raise SaccadeError(
                "the batch has no 'response' and no 'candidates'; add one, or write: see prompt"
            )
        if "response" in batch:
            check_tokens(batch, "response", "B, T", self.config)
        if "candidates" in batch:
            self._check_candidates(batch)

    def _check_candidates(self, batch):
        shape = tuple(batch["candidates"].shape)
        if len(shape) == 3 and shape[1] == 0:
            raise SaccadeError(f"candidates are {shape}, K = 0; give at least 1 to rank, or leave them out")
        check_tokens(batch, "candidates", "B, K, T", self.config)
        for name, expected in (("candidate_mask", shape[:2]), ("answer_index", shape[:1])):
            if batch.get(name) is not None and tuple(batch[name].shape) != expected:
                raise SaccadeError(
                    f"{name} is {tuple(batch[name].shape)}, candidates {shape} need {expected}"
                )
        if batch.get("answer_index") is not None:
            self._check_answer(batch["candidates"], batch.get("candidate_mask"), batch["answer_index"])

    def _check_answer(self, candidates, mask, index):
        """Looks at NumPy arrays only: others may be traced."""
        check_range("answer_index", index, candidates.shape[1], "the number of candidates")
        if not all(isinstance(x, np.ndarray) for x in (candidates, index, index if mask is None else mask)):
            return
        chosen = np.arange(len(index)), index
        kept = (candidates[chosen] != PAD).any(-1) & (True if mask is None else mask[chosen].astype(bool))
        if not kept.all():
            row = int(np.argmin(kept))
            raise SaccadeError(
                f"answer_index of row {row} is {index[row]}, a padded candidate; mend one of them"
            )

    def read(self, batch):
        text = ops.cast(batch["text_features"], self.compute_dtype)
        for name, table in (("turns", self.turn_table), ("roles", self.role_table)):
            if batch.get(name) is not None:
                text = text + lookup(table, ops.cast(batch[name], "int32"), text.dtype)
        return self.memory({**batch, "text_features": text})

    def call(self, batch):
        memory, outputs = self.read(batch), {}
        if "response" in batch:
            outputs["logits"] = self.decoder(ops.cast(batch["response"], "int32"), *memory)
        if "candidates" in batch:
            outputs["candidate_scores"] = self._rank(memory, batch, self._scores)
        return outputs

    def rank(self, batch, rank_by: str = "score"):
        """`candidate_scores`, float32 (B, K), as of a call.

        Args: rank_by: "score", learned by ranking; "likelihood", the log-probability that the decoder gives
            the candidate's tokens: no ranking need be learned, and K passes of the decoder are made.
        Raises: SaccadeError: as a call; no such way to rank.
        """
        if rank_by not in RANK_BY:
            raise SaccadeError(f"no rank_by {rank_by!r}; choose one of {', '.join(RANK_BY)}")
        self.check_features(batch)
        if "candidates" not in batch:
            raise SaccadeError("the batch has no 'candidates' to rank; add them")
        self._check_candidates(batch)
        return self._rank(
            self.read(batch), batch, self._scores if rank_by == "score" else self._log_likelihoods
        )

    def _rank(self, memory, batch, scores):
        candidates = ops.cast(batch["candidates"], "int32")
        return ops.where(kept_candidates(batch), scores(candidates, *memory), -1e9)

    def _scores(self, candidates, memory, mask):
        rows, count, length = candidates.shape
        words = ops.reshape(candidates, (-1, length))
        kept = ops.not_equal(words, PAD)
        read = rms(self.candidate_block(self.embedding(words), ops.expand_dims(kept, 1)))
        said = ops.reshape(self.candidate_pool(read, kept), (rows, count, -1))
        context = self.match(self.context_pool(memory, mask))
        products = ops.einsum("bd,bkd->bk", context, ops.cast(said, "float32"))
        return products * self.config.dim**-0.5

    def _log_likelihoods(self, candidates, memory, mask):
        def of_one(tokens):  # one candidate of every row: all at once would hold B K T V logits
            log_p = -losses.cross_entropy(self.decoder(tokens, memory, mask)[:, :-1], tokens[:, 1:])
            return ops.sum(ops.where(tokens[:, 1:] != PAD, log_p, 0.0), axis=-1)

        return ops.transpose(ops.map(of_one, ops.transpose(candidates, (1, 0, 2))))

    def decode(self, outputs: dict, tokenizer=None) -> dict:
        """Answers, as far as the outputs have them.

        Args: outputs: of a call; `tokens` in it, from the Writer, are taken before `logits`.
            tokenizer: None = no strings.
        Returns: dict: `order` int (B, K), candidates from best to worst, padded ones last, ties in the given
            order; `text` list of B strings.
        """
        answers = {}
        if "candidate_scores" in outputs:
            scores = ops.convert_to_numpy(outputs["candidate_scores"])
            answers["order"] = np.argsort(-scores, axis=-1, kind="stable")
        if tokenizer is not None and ("tokens" in outputs or "logits" in outputs):
            written = outputs["tokens"] if "tokens" in outputs else ops.argmax(outputs["logits"], axis=-1)
            answers["text"] = texts(written, tokenizer)
        return answers


def kept_candidates(batch):
    """bool (B, K): the candidates that count."""
    said = ops.any(ops.not_equal(ops.convert_to_tensor(batch["candidates"]), PAD), axis=-1)
    mask = batch.get("candidate_mask")
    return said if mask is None else ops.logical_and(said, ops.cast(mask, "bool"))


def flatten_history(rows, encode, length: int, max_turns: int) -> dict[str, np.ndarray]:
    """Each dialogue as one line of tokens: caption, rounds, and what is asked now.

    Rounds that do not fit are left out, the oldest first; caption and question always stay.

    Args:
        rows: with `text`, the question; `turns`, the (question, answer) pairs before it; `context`, the
            caption or None: such as VisDial's.
        encode: text -> token ids.  length: T.  max_turns: of the head.
    Returns: `tokens`, `turns` (rounds back; 0 for the caption), `roles` int32 (B, T); `text_mask` bool
        (B, T).
    Raises: SaccadeError: caption and question alone exceed the length.
    """
    shape = (len(rows), length)
    batch: dict[str, np.ndarray] = {name: np.zeros(shape, np.int32) for name in ("tokens", "turns", "roles")}
    batch["text_mask"] = np.zeros(shape, bool)
    for index, row in enumerate(rows):
        line = _line(row, encode, length, max_turns)
        for place, name in enumerate(("tokens", "turns", "roles")):
            batch[name][index, : len(line)] = [said[place] for said in line]
        batch["text_mask"][index, : len(line)] = True
    return batch


def _line(row, encode, length: int, max_turns: int) -> list[tuple[int, int, int]]:
    """(token, turn, role) of each token of one dialogue."""

    def said(text, turn, role):
        return [(token, turn, ROLES.index(role)) for token in encode(text)]

    start = said(row.context, 0, "caption") if row.context else []
    line = said(row.text, 0, "question")
    if len(start) + len(line) > length:
        raise SaccadeError(
            f"caption and question are {len(start) + len(line)} tokens, length={length}; raise it"
        )
    for back, (question, answer) in enumerate(row.turns[::-1][: max_turns - 1], 1):
        older = said(question, back, "question") + said(answer, back, "answer")
        if len(start) + len(older) + len(line) > length:
            break
        line = older + line
    return start + line
