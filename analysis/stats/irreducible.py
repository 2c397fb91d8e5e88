"""The irreducible loss E of a law by its profile, and numbers of the law with E pinned and with E free.

E and the exponents of a law trade off against each other. Whether losses flatten is therefore no matter of where a
search ends: at each value of E the law is fitted to each seed, and the derivative of its cost by E, the score, has the
mean 0 over seeds if E is true. Values at which Student's t does not tell the mean from 0 are inside the profile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .fit import Array, Points, fit, prepared
from .identifiability import VALUES_FOR_IRREDUCIBLE_LOSS, not_identifiable
from .laws import Fit, ScalingLaw
from .pinned import PinnedFits, fit_pinned
from .seedwise import LEVEL, Estimate, Ladders, over_seeds, student, without_interval
from .status import FitStatus, Refusal
