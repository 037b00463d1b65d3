"""Pixels of patches, whichever way an environment's processor gives them."""

import torch

from shared.vlm.encode import Encoder
from shared.vlm.seen import patch_bytes, seen
from tests.unit.vlm.examples import clip, question


def test_normalised_patches_are_the_bytes_that_they_were_made_of(encoder: Encoder) -> None:
    encoded = encoder.encode(question(), clip(3), "short")
    patches = patch_bytes(encoder, encoded["pixel_values_videos"])
    assert patches.dtype == torch.uint8
    counts = torch.bincount(torch.from_numpy(clip(3).frames).flatten().long(), minlength=256)
    assert torch.equal(torch.bincount(patches.flatten().long(), minlength=256), counts), "every pixel once"
    assert torch.equal(patch_bytes(encoder, patches), patches), "vLLM gives bytes"


def test_one_pixel_more_or_less_is_another_digest(encoder: Encoder) -> None:
    encoded = {**encoder.encode(question(), clip(3), "short"), "timestamps": [0.1]}
    patches = patch_bytes(encoder, encoded["pixel_values_videos"])
    changed = patches.clone()
    changed[5, 700] ^= 1
    digests = [
        seen(encoder, question(), [1], encoded | {"pixel_values_videos": one}, None, None).pixels
        for one in (encoded["pixel_values_videos"], patches, changed)
    ]
    assert digests[0] == digests[1] != digests[2]
