"""A class of each image: the native image model for Transformers."""

from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils.generic import can_return_tuple

from fftnet.hf.configuration import FFTNetViTConfig
from fftnet.hf.modeling import FFTNetBlock, FFTNetPreTrainedModel
from fftnet.model.backbone import Backbone
from fftnet.model.heads import pooled
from fftnet.model.vit import Patches


class FFTNetForImageClassification(FFTNetPreTrainedModel):
    """``fftnet.model.FFTNetViT``: images to classes.

    Args:
        config: sizes, mixers and labels.
    """

    config_class = FFTNetViTConfig
    config: FFTNetViTConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    main_input_name = "pixel_values"

    def __init__(self, config: FFTNetViTConfig) -> None:
        super().__init__(config)
        native = config.native()
        self.num_labels = native.num_classes
        self.patches = Patches(native)
        self.backbone = Backbone(native, FFTNetBlock)
        self.head = nn.Linear(native.d_model, native.num_classes)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutput:
        """Logits (B, num_labels) of images, and with labels the loss.

        Args:
            pixel_values: (B, num_channels, height, width), sides any multiples of a patch.
            labels: (B,) or, of several classes at once, (B, num_labels).
            output_hidden_states: return what each layer is handed, and what the last norm gives.
            **kwargs: what the library hands to all models.

        Raises:
            ValueError: if there are no images, or they are of another shape.
        """
        if pixel_values is None:
            raise ValueError("You have to specify pixel_values")
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        collected: list[Tensor] | None = [] if output_hidden_states else None
        hidden = self.backbone(self.patches(pixel_values), None, None, collected)
        logits = self.head(pooled(hidden, self.config.pooling))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels, logits, self.config, **kwargs)
        states = None if collected is None else tuple(collected)
        return ImageClassifierOutput(loss=loss, logits=logits, hidden_states=states)
