"""The one error that a user of the experiments can mend."""

from fftnet.errors import UserError


class ExperimentError(UserError):
    """One sentence that says what is wrong: a name, a file, a corpus, sizes that do not fit."""
