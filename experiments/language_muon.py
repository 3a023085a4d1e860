"""Language models over bytes that are trained with Muon instead of AdamW."""

from dataclasses import asdict, dataclass

from experiments.language import Language, LanguageSettings
from fftnet.training.optim import MUON


@dataclass(frozen=True, kw_only=True)
class MuonSettings(LanguageSettings):
    """Sizes of the language models and of their training, with the optimizer."""

    # A field of this class only: stored lines of the other experiments hold their settings without it.
    optimizer: str = MUON
    """Optimizer, a name that ``OptimConfig`` of fftnet's trainer knows."""


class LanguageWithMuon(Language):
    """Language models with equal tokens of training, trained with Muon."""

    name = "language_muon"
    title = "Language modelling over bytes, Muon"
    about = (
        "Language models of the first experiment on the same corpora with equal tokens, trained with Muon. "
        "Muon updates the weights of linear layers in mixers and feed-forward; AdamW updates all other "
        "parameters at the same learning rate. Learning rates are swept again, because the best one may "
        "differ between optimizers."
    )
    settings = MuonSettings()

    def tiny(self) -> LanguageSettings:
        """Return the sizes for ``quick``."""
        return MuonSettings(**asdict(super().tiny()))
