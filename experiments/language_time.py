"""Language models over bytes: arms of equal size train for equally many seconds, on all threads.

The seconds are those of training alone, evaluation not counted, so nothing else may run beside it. The
schedule follows the share of the time that is used.
"""

from dataclasses import replace

from experiments.language import Language, LanguageSettings


class LanguageInTime(Language):
    """Equal wall time."""

    name = "language_time"
    title = "Language modelling over bytes, equal time"
    about = (
        "The same models and corpora, each trained for ten minutes on the same machine: what is faster reads "
        "more. The learning-rate schedule follows the share of the time that is used."
    )
    settings = LanguageSettings(tokens=None, seconds=600.0)

    def tiny(self) -> LanguageSettings:
        """Sizes for ``quick``."""
        return replace(super().tiny(), tokens=None, seconds=0.2)
