"""The whole configuration: frozen, keyword-only dataclasses that are checked when they are made.

Imports no torch, so that a study can be planned and read without it. pydantic does the checking: a wrong type, an
unknown field or a value outside the allowed ones raises `pydantic.ValidationError` (a `ValueError`) that names them.
The string under a field is its documentation: `python -m lina_lab.run --help` prints it.
"""

from lina_lab.config.alerts import AlertsConfig
from lina_lab.config.attention import AttentionConfig
from lina_lab.config.checkpoint import CheckpointConfig
from lina_lab.config.checks import CHECKS, from_dict, to_dict
from lina_lab.config.command import CommandConfig, PathsConfig, SlurmConfig, TorchrunConfig
from lina_lab.config.ema import EmaConfig
from lina_lab.config.history import current_name, current_names, from_stored, study_from_stored
from lina_lab.config.model import LinaConfig
from lina_lab.config.objectives import BudgetConfig, ObjectiveConfig
from lina_lab.config.optimizers import OptimizerConfig
from lina_lab.config.primary import AcrossConfig, ContrastTerm, PrimaryConfig
from lina_lab.config.pruning import PruningConfig
from lina_lab.config.resources import ResourcesConfig
from lina_lab.config.stages import StagesConfig
from lina_lab.config.start import StartConfig
from lina_lab.config.study import StudyConfig
from lina_lab.config.trial import DataConfig, SamplingConfig, TrainerConfig, TrialConfig
from lina_lab.config.verdict import RoundingConfig, TuningConfig, UntilConfig

__all__ = [
    "CHECKS",
    "AcrossConfig",
    "AlertsConfig",
    "AttentionConfig",
    "BudgetConfig",
    "CheckpointConfig",
    "CommandConfig",
    "ContrastTerm",
    "DataConfig",
    "EmaConfig",
    "LinaConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PathsConfig",
    "PrimaryConfig",
    "PruningConfig",
    "ResourcesConfig",
    "RoundingConfig",
    "SamplingConfig",
    "SlurmConfig",
    "StagesConfig",
    "StartConfig",
    "StudyConfig",
    "TorchrunConfig",
    "TrainerConfig",
    "TrialConfig",
    "TuningConfig",
    "UntilConfig",
    "current_name",
    "current_names",
    "from_dict",
    "from_stored",
    "study_from_stored",
    "to_dict",
]
