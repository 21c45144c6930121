"""How a network is compared with an independent implementation: same weights, same images, equal logits.

All weights and statistics are drawn anew first, so that what starts as 0, 1 or 1e-6 (gamma, batch normalisation,
biases) has a say in the result.
"""

import torch


def perturb(model):
    """Draws every parameter and statistic: matrices keep the scale of their input, the rest is near 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(1 + noise.abs())
        elif tensor.ndim in (2, 4):
            tensor.copy_(noise * tensor[0].numel() ** -0.5)
        else:
            tensor.copy_(0.2 * noise + ("weight" in name or "scale" in name))
    return model.eval()


def assert_same_logits(ours, theirs, image_size, in_channels=3):
    images = torch.randn(2, in_channels, image_size, image_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, logits = theirs(images), ours(images)
    assert expected.std() > 1e-3, "the reference's logits are degenerate: the comparison would say nothing"
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()
