"""The paper's ablation: its bidirectional layer with one part taken out."""

from experiments.base import Sweep
from experiments.classification import ClassificationExperiment
from experiments.images import Images
from experiments.lra_brief import BriefArena


class PaperAblation(ClassificationExperiment):
    """Base filter, modulation, modReLU, and how finely the filter is held, on two tasks."""

    name = "ablation_paper"
    title = "Ablation: the paper's layer"
    about = (
        "The bidirectional layer with one part taken out, its parameters kept where they change nothing, "
        "at one learning rate (twice of it gives the whole half a point more). On images the filter of "
        "the whole has a value for each of the 25 frequencies of 49 patches, which is the published form, "
        "tied to one length; an arm with other anchors interpolates. Of R8's texts the first 256 bytes "
        "are read. Accuracy on the test split, in percent."
    )
    reference = "spectral"
    sweep = Sweep(learning_rates=(3e-3,), weight_decays=(0.05,))
    settings_of = {  # noqa: RUF012 - never changed
        "images": Images.settings_of["fashion_mnist_brief"],
        "r8": BriefArena.settings_of["r8"],
    }
