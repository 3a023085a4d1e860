"""Long Range Arena in brief: short rows and small models, so that all mixers, rates and seeds can be run."""

from experiments.cases import CaseSettings, Stage
from experiments.classification import ClassificationExperiment
from experiments.training import Budget
from fftnet.model.heads import LAST


class BriefArena(ClassificationExperiment):
    """Expressions, topics and pairs of passages, of some hundred tokens at most."""

    name = "lra_brief"
    title = "Long Range Arena in brief"
    about = (
        "Tasks of the section before, cut down until a run takes minutes: ListOps of 40 to 119 tokens "
        "behind those of 6 to 39; the first 256 bytes of the texts of R8, classes from the first step; "
        "pairs of passages of 256 bytes, each encoded alone (their comparison has 33,000 parameters "
        "more). Every arm has the same parameters and steps, and its own learning rate, chosen on "
        "validation; accuracy on the test split, in percent. The causal arms have a short convolution "
        "and see the past only. What decides here need not decide at full length."
    )
    settings_of = {  # noqa: RUF012 - never changed
        "listops": CaseSettings(
            data="listops120",
            pooling=LAST,
            dropout=0.0,
            rows=64,
            stages=(Stage(data="listops40", steps=1000, rows=128),),
            budget=Budget(steps=1600),
            curve_rows=2000,
        ),
        "r8": CaseSettings(data="reuters8_256", budget=Budget(steps=800)),
        "retrieval": CaseSettings(
            data="shakespeare_pairs_256", pairs=True, dropout=0.0, budget=Budget(steps=1200)
        ),
    }
