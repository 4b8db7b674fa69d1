"""Conversations about pictures, from files, streams and the scene world, packed into sequences.

rows = Conversations.open("cauldron/*/*.parquet")
packer = Packer.measured(processor, rows, sequences=8)
"""

from saccade.data.conversations.files import Conversations
from saccade.data.conversations.packing import Packer, Tally, Tolerant
from saccade.data.conversations.rows import Conversation, RowFormat
from saccade.data.conversations.scenes import Explained, SceneConversations
from saccade.data.conversations.streamed import StreamedConversations
from saccade.data.rows import BAD, LEFT_OUT, RowError

__all__ = [
    "BAD",
    "LEFT_OUT",
    "Conversation",
    "Conversations",
    "Explained",
    "Packer",
    "RowError",
    "RowFormat",
    "SceneConversations",
    "StreamedConversations",
    "Tally",
    "Tolerant",
]
