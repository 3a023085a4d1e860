"""Language models over bytes: arms of equal size train for equally many seconds, on all threads.

The seconds are those of training alone, evaluation not counted, so nothing else may run beside it. The
schedule follows the share of the time that is used.
"""

from dataclasses import replace

from experiments.base import Sweep
from experiments.language import Language, LanguageSettings


class LanguageInTime(Language):
    """Equal wall time."""

    name = "language_time"
    title = "Language modelling over bytes, equal time"
    about = (
        "The same models and corpora, each trained for 90 seconds on two threads of the same machine with "
        "nothing beside it: what is faster reads more. The learning-rate schedule follows the share of the "
        "time that is used. Learning rates are swept with one seed: on Python's documentation for both arms, "
        "elsewhere for attention at the two best."
    )
    sweep = Sweep(learning_rates=(1.5e-3, 3e-3, 6e-3, 1.2e-2))
    settings = LanguageSettings(tokens=None, seconds=90.0, points=12)

    def tiny(self) -> LanguageSettings:
        """Sizes for ``quick``."""
        return replace(super().tiny(), tokens=None, seconds=0.2)
