"""`unet.build_unet` in PyTorch: same layers, same names, so that weights can be carried over."""

import torch
from torch import nn

LEVELS = 4


class TorchUNet(nn.Module):
    """The U-Net with batch normalisation, from (B, 1, H, W) to probabilities (B, 1, H, W).

    Parameters
    ----------
    filters : int
        Of the first level.
    dropout : float
    """

    def __init__(self, filters, dropout):
        super().__init__()
        self.layers = nn.ModuleDict()
        self.dropout, self.pool = nn.Dropout(dropout), nn.MaxPool2d(2)
        widths = [filters * 2**level for level in range(LEVELS + 1)]
        for level, width in enumerate(widths[:-1], start=1):
            self._add_block(f"encoder_{level}", widths[level - 2] if level > 1 else 1, width)
            self.layers[f"decoder_{level}_up"] = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
            self._add_block(f"decoder_{level}", 2 * width, width)
        self._add_block("bottleneck", widths[-2], widths[-1])
        self.layers["head"] = nn.Conv2d(filters, 1, 1)

    def _add_block(self, name, channels, width):
        for i, before in ((1, channels), (2, width)):
            self.layers[f"{name}_conv_{i}"] = nn.Conv2d(before, width, 3, padding=1, bias=False)
            # Keras' epsilon, and its momentum 0.9 in PyTorch's way of counting.
            self.layers[f"{name}_norm_{i}"] = nn.BatchNorm2d(width, eps=1e-3, momentum=0.1)

    def _block(self, x, name):
        for i in (1, 2):
            x = self.layers[f"{name}_norm_{i}"](self.layers[f"{name}_conv_{i}"](x))
            x = nn.functional.relu(x, inplace=True)
        return x

    def forward(self, x):
        skips = []
        for level in range(1, LEVELS + 1):
            x = self._block(x, f"encoder_{level}")
            skips.append(x)
            x = self.dropout(self.pool(x))
        x = self._block(x, "bottleneck")
        for level in range(LEVELS, 0, -1):
            x = self.layers[f"decoder_{level}_up"](x)
            x = self.dropout(torch.cat([skips.pop(), x], 1))
            x = self._block(x, f"decoder_{level}")
        return torch.sigmoid(self.layers["head"](x).float())

    def carry_over(self, weights):
        """Take the weights of the Keras network: layer name to what its `get_weights` returns."""
        for name, layer in self.layers.items():
            arrays = [torch.from_numpy(array.copy()) for array in weights[name]]
            if arrays[0].ndim == 4:
                # Keras (height, width, in, out), transposed convolutions (height, width, out, in).
                arrays[0] = arrays[0].permute(3, 2, 0, 1)
            names = ["weight", "bias", "running_mean", "running_var"]
            layer.load_state_dict(
                dict(zip(names[: len(arrays)], arrays, strict=True)), strict=False
            )


def weighted_dice_loss(mask, probability, strength, smooth=1.0):
    """`losses.weighted_dice_loss` with the Dice of a batch, line by line."""
    pool = nn.functional.max_pool2d
    band = pool(mask, 3, stride=1, padding=1) + pool(-mask, 3, stride=1, padding=1)
    weights = 1 / (1 + strength * band)
    overlap = (weights * mask * probability).sum()
    size = (weights * (mask + probability)).sum()
    return 1 - (2 * overlap + smooth) / (size + smooth)


def make_step(model, optimizer, images, mask, strength, autocast=None):
    """Return a callable that does one training step and returns its loss.

    Parameters
    ----------
    model : callable
    optimizer : torch.optim.Optimizer
    images, mask : tensor, float32, shape (B, 1, H, W)
    strength : float
    autocast : torch.dtype or None
        Of the network; the loss is always float32.
    """
    # What is watched while training, as in `losses.OverlapMetrics`.
    counts = torch.zeros(3, dtype=torch.float64, device=images.device)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, dtype=autocast, enabled=autocast is not None):
            probability = model(images)
        loss = weighted_dice_loss(mask, probability, strength)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            prediction = (probability > 0.5).float()
            counts.add_(torch.stack([(mask * prediction).sum(), prediction.sum(), mask.sum()]))
        return loss

    return step
