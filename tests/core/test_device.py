"""Where a network runs, and how much it is shown at once."""

import torch

from linnaeus.core.device import at_once


def test_a_cpu_is_shown_few_large_images_at_once_or_many_small_ones(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert at_once(torch.empty(64, 3, 224, 224)) == 8
    assert at_once(torch.empty(64, 1, 28, 28)) == 512
    assert at_once(torch.empty(1, 3, 4000, 4000)) == 1
    assert at_once(torch.empty(64, 3, 224, 224, device="meta")) == 64
