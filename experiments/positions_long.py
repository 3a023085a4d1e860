"""Loss by position of the models that were trained long: they know more that a long text can tell."""

from experiments.language_long import LongLanguage
from experiments.positions import Positions


class LongPositions(Positions):
    """Reads what ``language_long`` has trained; the weights must still lie in the cache."""

    name = "positions_long"
    title = "Loss by position, state carried, after the long run"
    about = "As above, with the model of the long run (50M tokens, windows of 512)."
    cases = LongLanguage.cases
    training = LongLanguage
