"""Models that write images and clips with one and the same token, as GLM-4.1V to 4.6V do.

transformers takes all of these tokens for the image's, and then again for the clip's, so that a prompt with both fails
("Image features and image tokens do not match"). Which token is whose the processor says, in mm_token_type_ids.
"""

from __future__ import annotations

from typing import Any

import torch

_IMAGE, _CLIP = 1, 2  # in mm_token_type_ids


def tell_media_apart(model: Any) -> None:  # noqa: ANN401  # of any family
    """Give such a model prompts with an image and a clip. Prompts with one of them stay as they are."""
    base = model.model
    kinds: list[torch.Tensor | None] = [None]

    def remember(_: object, arguments: tuple[object, ...], options: dict[str, Any]) -> None:
        kinds[0] = options.get("mm_token_type_ids")

    def masks(
        input_ids: torch.Tensor,
        inputs_embeds: torch.Tensor,
        image_features: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # (B, L, 1) bool each
        if kinds[0] is None:
            raise ValueError("mm_token_type_ids is absent: the processor has not said which tokens are the clip's")
        image, clip = (kinds[0] == kind for kind in (_IMAGE, _CLIP))
        for name, mask, features in (("image", image, image_features), ("clip", clip, video_features)):
            if features is not None and int(mask.sum()) != len(features):
                raise ValueError(f"the {name} has {len(features)} features and {int(mask.sum())} tokens")
        return image[..., None], clip[..., None]

    base.register_forward_pre_hook(remember, with_kwargs=True)
    base.get_placeholder_mask = masks
