"""Long sequences to classify: the tasks of Long Range Arena that can be had, and stand-ins for the others."""

from experiments import markdown
from experiments.cases import CaseSettings, Stage
from experiments.classification import ClassificationExperiment
from experiments.training import Budget
from fftnet.model.heads import LAST

PUBLISHED = markdown.table(
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
    """Bytes, pixels and expressions, one class a sequence."""

    name = "lra"
    title = "Long Range Arena, as far as its data can be had"
    about = (
        "One class a sequence, models of equal parameters, equal steps, far fewer than in the published "
        "rows below. ListOps and Pathfinder are generated anew after their published description; R8 and "
        "20 Newsgroups (bytes of the standard splits) stand in for Text, pairs of passages from "
        "Shakespeare's works (from the same work or not, each encoded alone) for Retrieval, and "
        "Fashion-MNIST read pixel by pixel for Image. On R8 and 20 Newsgroups every arm learns to read "
        "first: the next token (causal arms) or masked tokens (the others) of the training rows; then the "
        "classes beside that. ListOps and 20 Newsgroups begin with shorter rows: expressions of the same "
        "grammar, of 6 to 499 tokens, and texts cut at 1,024 bytes. The learning rate is chosen on "
        "validation; accuracy on the test split, in percent. Pixels were run before positions of "
        "bidirectional models were made as small as fresh embeddings. The causal arms see the past "
        "only; the published rows are bidirectional."
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
        "pathfinder": CaseSettings(data="pathfinder32", dropout=0.0, rows=64, budget=Budget(steps=8000)),
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
