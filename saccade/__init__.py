"""Saccade: compact vision-language models that look again until they are sure."""

import os
from importlib import import_module

__version__ = "0.1.0"

# Keras reads its backend once, at import; JAX unless the user has chosen one.
os.environ.setdefault("KERAS_BACKEND", "jax")

_WHERE = {
    "load": "saccade.pipeline",
    "analyse": "saccade.analysis",
    "BLIP2": "saccade.models.blip2",
    "BLIP2Config": "saccade.models.blip2",
    "FewShot": "saccade.few_shot",
    "Flamingo": "saccade.models.flamingo",
    "FlamingoConfig": "saccade.models.flamingo",
    "OpenFlamingo": "saccade.models.flamingo",
    "Pipeline": "saccade.pipeline",
    "CLIP": "saccade.models.clip",
    "CLIPConfig": "saccade.models.clip",
    "CLIPPipeline": "saccade.clip",
    "CLIPProcessor": "saccade.data.clip_processor",
    "CaptionPipeline": "saccade.captioning",
    "ChatPipeline": "saccade.chat",
    "ChatProcessor": "saccade.data.chat_processor",
    "HRM": "saccade.models.trm",
    "NanoVLM": "saccade.models.nano_vlm",
    "NanoVLMConfig": "saccade.models.nano_vlm",
    "Processor": "saccade.data.processor",
    "PuzzleModel": "saccade.puzzles",
    "SaccadeError": "saccade.errors",
    "ShowAndTell": "saccade.models.captioners",
    "ShowAttendTell": "saccade.models.captioners",
    "TRM": "saccade.models.trm",
    "TRMConfig": "saccade.models.trm",
    "Trainer": "saccade.train.trainer",
    "VLMHRM": "saccade.models.vlm_hrm",
    "VLMHRMConfig": "saccade.models.vlm_hrm",
    "evaluate": "saccade.evaluation",
    "fine_tune": "saccade.fine_tuning",
}
__all__ = sorted([*_WHERE, "__version__"])


def __getattr__(name: str):
    """Import on first use, so that `import saccade` stays instant and loads no Keras."""
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'saccade' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
