"""Features for the task heads from any encoder: Saccade's, a Keras model, or another program's arrays.

    features = from_saccade("vlm_hrm_scenes")
    head = create_vlm_head(VLMTaskConfig("vqa", **features.dims, num_answers=4))
    outputs = head(features(images, texts))

Encoders are frozen: nothing here makes gradients, so a data set is encoded once (`encode_all`) and heads
train on what is stored.
"""

from saccade.features.encoders import Features, from_keras
from saccade.features.stored import FeatureSet, from_arrays
from saccade.features.vlm_hrm import from_saccade

__all__ = ["FeatureSet", "Features", "from_arrays", "from_keras", "from_saccade"]
