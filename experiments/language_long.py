"""One long run of attention and of the default mixer: whether a lead in the first tokens lasts."""

from dataclasses import replace

from experiments.base import Sweep
from experiments.language import Language, LanguageSettings


class LongLanguage(Language):
    """Seventeen times as many tokens, one seed."""

    name = "language_long"
    title = "Language modelling over bytes, one long run"
    about = (
        "The same models on Shakespeare's works for 50M tokens, eleven times through the text: attention "
        "starts slowly, so a short training flatters what it is compared with. One seed, one learning rate. "
        "The two ran beside other work, so their seconds are those of a busy machine."
    )
    cases = ("shakespeare",)
    sweep = Sweep(learning_rates=(3e-3,), seeds=(0,))
    settings = LanguageSettings(tokens=50_000_000)

    def tiny(self) -> LanguageSettings:
        """Sizes for ``quick``."""
        return replace(super().tiny(), tokens=960)
