"""Every part of the mixer with addresses taken out, on associative recall."""

from experiments.base import Sweep
from experiments.recall import Recall


class AblatedRecall(Recall):
    """Recall at the learning rate of the whole mixer."""

    name = "ablation_recall"
    title = "Ablation: recall"
    about = (
        "The recall experiment with one part of the mixer taken out, at the learning rate that is best for "
        "the whole; the parts are those of docs/maths.md, section 3."
    )
    reference = "addressed"
    # What the whole mixer reaches; attention shows in the recall experiment that the task can be learned.
    solved = 0.96
    sweep = Sweep(learning_rates=(1e-2,), weight_decays=(0.1,))
