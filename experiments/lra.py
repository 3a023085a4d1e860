"""Long Range Arena: its tasks as far as data are available, similar ones, and short versions."""

from experiments import tables
from experiments.classification import ClassificationExperiment
from experiments.classifier_data import CaseSettings, Stage
from experiments.training import Budget
from fftnet.model.heads import LAST

PUBLISHED = tables.table(
    ["published, other budget", "ListOps", "Text", "Retrieval", "Image", "Pathfinder", "Path-X"],
    [
        ["FFTNet (arXiv 2502.18394v2)", "37.65", "66.01", "60.21", "42.02", "80.71", "83.25"],
        ["Transformer, there", "36.06", "61.54", "59.67", "41.51", "80.38", "-"],
        ["FNet, there", "35.33", "65.11", "59.61", "38.67", "77.80", "-"],
        ["S4", "59.60", "86.82", "90.90", "88.65", "94.20", "96.35"],
        ["LRU", "60.2", "89.4", "89.9", "89.0", "95.1", "94.2"],
        ["Mega", "63.14", "90.43", "91.25", "90.44", "96.01", "97.98"],
    ],
)


class LongRangeArena(ClassificationExperiment):
    """Bytes, pixels and expressions of up to 4,096 tokens, one class a sequence."""

    name = "lra"
    title = "Long Range Arena, as far as data are available"
    about = (
        "One class a sequence, models of equal parameters, equal steps, far fewer than in the published "
        "rows below. ListOps is generated after its published description; R8 and 20 Newsgroups (bytes of "
        "the standard splits) replace Text, pairs of passages from Shakespeare's works (from the same "
        "work or not, each encoded alone) replace Retrieval, and Fashion-MNIST read pixel by pixel "
        "replaces Image. Pathfinder was generated and tried in version 0.2, which has the generator: "
        "nothing but the distance of the two ends was learned on CPUs (docs/log.md). On R8 and 20 "
        "Newsgroups every model first learns without labels: the next token (causal models) or masked "
        "tokens (the others) of the training rows. ListOps and 20 Newsgroups begin with shorter rows: "
        "expressions of the same grammar, of 6 to 499 tokens, and texts cut at 1,024 bytes. The learning "
        "rate is chosen on validation. Accuracy on the test split, in percent. Pixels were run before "
        "positions of bidirectional models were made as small as fresh embeddings. Causal models see the "
        "past only; the published rows are bidirectional."
    )
    published = PUBLISHED
    settings_of = {  # noqa: RUF012 - never changed
        "listops": CaseSettings(
            data="listops",
            pooling=LAST,
            dropout=0.0,
            rows=16,
            stages=(
                Stage(data="listops40", steps=1600, rows=128),
                Stage(data="listops120", steps=1000, rows=64),
                Stage(data="listops500", steps=1200, rows=32),
            ),
            budget=Budget(steps=6800),
            curve_rows=1000,
        ),
        "r8": CaseSettings(
            data="reuters8", d_model=128, parameters=900_000, reading_share=0.5, budget=Budget(steps=1200)
        ),
        "newsgroups": CaseSettings(
            data="newsgroups",
            d_model=128,
            parameters=900_000,
            stages=(Stage(data="newsgroups1024", steps=1500, rows=32),),
            reading_share=0.4,
            budget=Budget(steps=1600),
        ),
        "retrieval": CaseSettings(
            data="shakespeare_pairs", pairs=True, dropout=0.0, budget=Budget(steps=3000)
        ),
        "pixels": CaseSettings(data="fashion_mnist", dropout=0.0, budget=Budget(steps=12_000)),
    }


class BriefArena(ClassificationExperiment):
    """Expressions, topics and pairs of passages of at most some hundred tokens."""

    name = "lra_brief"
    title = "Long Range Arena in brief"
    about = (
        "Tasks of the section above, shortened until a run takes minutes, so that all mixers, rates and "
        "seeds could be run: ListOps of 40 to 119 tokens after those of 6 to 39; the first 256 bytes of "
        "the texts of R8, with labels from the first step; pairs of passages of 256 bytes, each encoded "
        "alone (their comparison has 33,000 parameters more). Every model has the same parameters and "
        "steps, and its own learning rate, chosen on validation. Accuracy on the test split, in percent. "
        "The causal models have a short convolution and see the past only. The order of the models may "
        "differ at full length."
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
