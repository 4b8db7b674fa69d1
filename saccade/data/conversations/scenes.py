"""The scene world's questions as conversations."""

from saccade.data.conversations.rows import Conversation
from saccade.data.scenes import Source
from saccade.errors import SaccadeError

TASKS = ("vqa", "statement", "dialogue", "match")


class SceneConversations:
    """Row i: example i of a Source, its earlier turns, its question and its answer.

    Raises: SaccadeError: the source's task has no question with an answer.
    """

    def __init__(self, source: Source):
        if source.task not in TASKS:
            raise SaccadeError(f"task {source.task!r} is no conversation; use one of {', '.join(TASKS)}")
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Conversation:
        example = self.source[index]
        turns = [*example.turns, (example.text, example.answer)]
        messages = [
            {"role": role, "content": text}
            for turn in turns
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        return Conversation((example.image,), tuple(messages), f"scene {index} of {self.source.task}")
