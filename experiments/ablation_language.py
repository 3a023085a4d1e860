"""Every part of the mixer with addresses taken out, on language."""

from experiments.base import Sweep
from experiments.language import Language, LanguageSettings


class AblatedLanguage(Language):
    """Language modelling at one learning rate, with half of the tokens."""

    name = "ablation_language"
    title = "Ablation: language"
    about = (
        "The language experiment on Shakespeare's works with one part of the mixer taken out, 1.5M tokens, "
        "at one learning rate. Parameters are equal: the feed-forward makes up for what a part had."
    )
    reference = "addressed"
    cases = ("shakespeare",)
    sweep = Sweep(learning_rates=(3e-3,))
    settings = LanguageSettings(tokens=1_500_000)
