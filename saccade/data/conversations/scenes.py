"""The scene world's examples as conversations."""

from collections.abc import Sequence
from dataclasses import replace

from saccade.data.conversations.rows import Conversation
from saccade.data.scenes import Source
from saccade.errors import SaccadeError

SAY_HOW = "Say how you know."
# What the user says, and the field of an example that answers it.
ASKED = {
    "vqa": ("{text}", "answer"),
    "statement": ("{text}", "answer"),
    "dialogue": ("{text}", "answer"),
    "match": ("{text}", "answer"),
    "rationale": ("{text} " + SAY_HOW, "target"),
    "caption": ("Describe the picture.", "target"),
    "retrieve": ("Describe every object in order.", "text"),
}


class SceneConversations:
    """Rows of several Sources by turns: with two of them, row 2 i is example i of the first.

    A question of a dialogue comes with its earlier turns; a rationale answers a question and says how; a
    caption answers "Describe the picture."; what `retrieve` looks up is a list of all objects in order.

    Raises: SaccadeError: no source, or one whose task makes no conversation.
    """

    def __init__(self, *sources: Source):
        for task in [source.task for source in sources] or ["nothing"]:
            if task not in ASKED:
                raise SaccadeError(f"task {task!r} is no conversation; use one of {', '.join(ASKED)}")
        self.sources: Sequence[Source] = sources

    def __len__(self) -> int:
        return len(self.sources[0])

    def __getitem__(self, index: int) -> Conversation:
        index, turn = divmod(index, len(self.sources))
        source = self.sources[turn]
        example = source[index]
        asked, field = ASKED[source.task]
        turns = [*example.turns, (asked.format(text=example.text), getattr(example, field))]
        messages = [
            {"role": role, "content": text}
            for pair in turns
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        return Conversation((example.image,), tuple(messages), f"scene {index} of {source.task}")


class Explained:
    """The same questions, asked to say how one knows; what each ends with stays the answer alone."""

    def __init__(self, rows: SceneConversations):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Conversation:
        row = self.rows[index]
        *before, asked, answer = row.messages
        asked = {**asked, "content": f"{asked['content']} {SAY_HOW}"}
        return replace(row, messages=(*before, asked, answer))
