"""transformers 5.24: which configurations have a text encoder.

Public: `AutoModelForTextEncoding.from_config`, which makes the whole model or fails. Missing: to ask first.
"""

from typing import Any


def has_text_encoder(config: Any) -> bool:
    """Whether `AutoModelForTextEncoding` knows a model of a configuration's type (`_model_mapping`)."""
    import transformers

    return type(config) in transformers.AutoModelForTextEncoding._model_mapping
