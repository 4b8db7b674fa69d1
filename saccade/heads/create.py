"""From a configuration, or a folder, to a head."""

from pathlib import Path

from saccade.errors import SaccadeError
from saccade.heads.captioning import CaptioningHead
from saccade.heads.dense import DenseCaptioningHead
from saccade.heads.dialogue import DialogueHead
from saccade.heads.grounding import VisualGroundingHead
from saccade.heads.matching import MatchingHead
from saccade.heads.task import TaskHead, VLMTaskConfig, VLMTaskType
from saccade.heads.vqa import VQAHead
from saccade.model import CONFIG, read_config

HEADS: dict[VLMTaskType, type[TaskHead]] = {
    VLMTaskType.VQA: VQAHead,
    VLMTaskType.GROUNDING: VisualGroundingHead,
    VLMTaskType.MATCHING: MatchingHead,
    VLMTaskType.DENSE_CAPTIONING: DenseCaptioningHead,
    VLMTaskType.CAPTIONING: CaptioningHead,
    VLMTaskType.DIALOGUE: DialogueHead,
}


def create_vlm_head(config: VLMTaskConfig, **kwargs) -> TaskHead:
    """The head of a configuration, built, with random weights. Args: kwargs: `dtype`, `name`."""
    return HEADS[config.task](config, **kwargs)


def load_vlm_head(folder, dtype: str = "float32"):
    """A head, TaskHead or MultiTaskHead, that `save` wrote.

    Raises: SaccadeError: unreadable, altered, or not a head.
    """
    from saccade.heads.multitask import MultiTaskHead  # made of the heads above

    name = read_config(folder).get("model")
    by_name = {head.__name__: head for head in (*HEADS.values(), MultiTaskHead)}
    if name not in by_name:
        raise SaccadeError(f"{Path(folder) / CONFIG} describes a {name!r}; heads are {', '.join(by_name)}")
    return by_name[name].load(folder, dtype)
