"""Analysis of studies: it reads the run store and published data, compares variants and fits scaling laws.

    from lina_lab.analysis import analyze_study, read_study

    report = analyze_study(read_study("normalization_scaling", Path("runs")))

The names below are imported when they are first used, so that importing the package is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .load.errors import StoreError
    from .load.published import read_published
    from .load.runs import StudyRuns, read_study
    from .report.study_report import StudyReport, analyze_study
    from .report.writer import write_study_report
    from .stats.exploratory import exploratory
    from .stats.fit import fit_law
    from .stats.laws import Fit, Pooling, ScalingLaw, log_line, power, surface
    from .stats.paired import mean_differences, paired_differences
    from .stats.status import FitStatus, Refusal
    from .stats.study_fits import StudyFits, fit_study
    from .stats.tuned import tuned_rates
    from .stats.verdicts import PrimaryVerdict, primary_verdict

__all__ = [
    "Fit",
    "FitStatus",
    "Pooling",
    "PrimaryVerdict",
    "Refusal",
    "ScalingLaw",
    "StoreError",
    "StudyFits",
    "StudyReport",
    "StudyRuns",
    "analyze_study",
    "exploratory",
    "fit_law",
    "fit_study",
    "log_line",
    "mean_differences",
    "paired_differences",
    "power",
    "primary_verdict",
    "read_published",
    "read_study",
    "surface",
    "tuned_rates",
    "write_study_report",
]
_MODULES = {
    "load.errors": ("StoreError",),
    "load.published": ("read_published",),
    "load.runs": ("StudyRuns", "read_study"),
    "report.study_report": ("StudyReport", "analyze_study"),
    "report.writer": ("write_study_report",),
    "stats.exploratory": ("exploratory",),
    "stats.fit": ("fit_law",),
    "stats.laws": ("Fit", "Pooling", "ScalingLaw", "log_line", "power", "surface"),
    "stats.paired": ("mean_differences", "paired_differences"),
    "stats.status": ("FitStatus", "Refusal"),
    "stats.study_fits": ("StudyFits", "fit_study"),
    "stats.tuned": ("tuned_rates",),
    "stats.verdicts": ("PrimaryVerdict", "primary_verdict"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
