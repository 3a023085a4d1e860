"""Images to classify: the paper's ViT beside attention and FNet, small, on Fashion-MNIST."""

from dataclasses import replace

from experiments.cases import CaseSettings
from experiments.classification import ClassificationExperiment
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


class Images(ClassificationExperiment):
    """Patches of 4 x 4 pixels."""

    name = "images"
    title = "Images: Fashion-MNIST in patches"
    about = (
        "A small FFTNetViT: 28 x 28 grey pixels in 49 patches, filters held at each of their 25 frequencies, "
        "mean pooling, images mirrored and moved by up to a pixel in training, label smoothing 0.1; the "
        "mixers in turn, equal parameters and steps; in brief an eighth of the steps, for more mixers and "
        "rates. The learning rate is chosen on 5,000 validation images; accuracy on the 10,000 test images, "
        "in percent. The paper's ImageNet rows (FFTNetViT Base 79.6, Large 82.1, Huge 83.2; ViT 79.4, 81.8, "
        "82.9; published, other data) cannot be repeated here."
    )
    settings_of = {  # noqa: RUF012 - never changed
        "fashion_mnist": FASHION,
        # An eighth of the steps: five minutes a run, so that all arms, rates and seeds can be run.
        "fashion_mnist_brief": replace(FASHION, budget=Budget(steps=2000)),
    }
