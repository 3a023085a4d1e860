"""Images to classify: the paper's ViT next to attention and FNet, and its ablation, on small data."""

from dataclasses import replace

from experiments import tables
from experiments.base import Sweep
from experiments.classification import ClassificationExperiment
from experiments.classifier_data import CaseSettings
from experiments.lra import BriefArena
from experiments.training import Budget

FASHION = CaseSettings(
    data="fashion_mnist",
    patch_size=4,
    num_anchors=25,
    parameters=250_000,
    dropout=0.0,
    rows=64,
    augment=True,
    label_smoothing=0.1,
    budget=Budget(steps=16_000),
    curve_rows=2000,
)
# An eighth of the steps: five minutes a run, so that all models, rates and seeds can be run.
BRIEF = replace(FASHION, budget=Budget(steps=2000))


class Images(ClassificationExperiment):
    """Fashion-MNIST in patches of 4 x 4 pixels."""

    name = "images"
    title = "Images: Fashion-MNIST in patches"
    about = (
        "A small FFTNetViT: 28 x 28 grey pixels in 49 patches, filters with a value for each of their 25 "
        "frequencies, mean pooling, training images mirrored and shifted by up to a pixel, label "
        "smoothing 0.1, equal parameters and steps; in brief an eighth of the steps, for more mixers and "
        "rates. The learning rate is chosen on 5,000 validation images. Accuracy on the 10,000 test "
        "images, in percent. The paper's ImageNet results (FFTNetViT Base 79.6, Large 82.1, Huge 83.2; "
        "ViT 79.4, 81.8, 82.9) are on other data and were not repeated here."
    )
    settings_of = {"fashion_mnist": FASHION, "fashion_mnist_brief": BRIEF}  # noqa: RUF012 - never changed


class PaperAblation(ClassificationExperiment):
    """The paper's bidirectional layer without a part, or with other anchor frequencies, on two tasks."""

    name = "ablation_paper"
    title = "Ablation: the paper's layer"
    about = (
        "The bidirectional layer with one part removed, at one learning rate (at twice the rate the whole "
        "layer is half a point better). The parameters of the part are fixed at values without effect. On "
        "images the filter of the whole layer has a value for each of the 25 frequencies of 49 patches, "
        "which is the published form, tied to one length; with other anchors it interpolates. Of R8's "
        "texts the first 256 bytes are read. Accuracy on the test split, in percent."
    )
    reference = "spectral"
    sweep = Sweep(learning_rates=(3e-3,), weight_decays=(0.05,))
    settings_of = {"images": BRIEF, "r8": BriefArena.settings_of["r8"]}  # noqa: RUF012 - never changed

    def sentence(self, scores: dict[str, dict[str, list[float]]]) -> str:
        """Return the sentence about the part whose removal costs most."""
        return tables.costs(scores, self.label(self.reference), self.unit, self.lower_is_better, digits=1)
