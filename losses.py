"""Weighted Dice: the boundary weight map, the loss, and the metrics watched while training.

Only `keras` and `keras.ops` compute, so that every backend finds the same.
Shape letters: B images of a batch, H, W pixels.
"""

import keras
from keras import ops

from system.devices import sum_over_devices

# In the mask of an image that counts for nothing.
NO_IMAGE = 255


def boundary_band(mask):
    """Mark the pixels on either side of the mask's edge: 3×3 dilation minus 3×3 erosion.

    From a mask of 0 and 1, (B, H, W, 1), to 1 on the band, two pixels wide. The image's frame is no
    edge.
    """
    # The largest of a window is a dilation, and minus the largest of minus is an erosion.
    dilated = ops.max_pool(mask, 3, strides=1, padding="same")
    eroded = -ops.max_pool(-mask, 3, strides=1, padding="same")
    return dilated - eroded


def weight_map(mask, strength):
    """Weigh each pixel: 1, but less on the hand-drawn edge, on which raters do not agree.

    ``w = 1 / (1 + strength · e)`` with `e` the `boundary_band`: on the band 0.5 for strength 1,
    0.556 for 0.8, and 1 everywhere for 0.
    """
    return 1 / (1 + strength * boundary_band(mask))


def weighted_dice_loss(mask, probability, strength, dice_of="batch", smooth=1.0):
    """Compute one minus the weighted Dice [1]_ of a batch, on however many devices.

    ``1 - (2 Σ w·y·p + smooth) / (Σ w·y + Σ w·p + smooth)``. The weight stands in every sum: a perfect
    prediction has loss 0, and strength 0 is plain Dice. Without a lesion the loss is 0 if nothing is
    marked.

    Parameters
    ----------
    mask : tensor, float, shape (B, H, W, 1)
        0 or 1, or `NO_IMAGE`.
    probability : tensor, float, shape (B, H, W, 1)
        0 to 1.
    strength : float
        See `weight_map`.
    dice_of : "batch" or "image"
        ``batch``: the sums are over all pixels of all images, so that a lesion counts by its size.
        ``image``: each has sums of its own and counts the same, however small its lesion is.
    smooth : float
        In pixels. With ``image`` and 1, marking 30 pixels faintly lowers the loss only if they are a
        lesion in 94 of 100 images; with 100, in 51.

    References
    ----------
    .. [1] Milletari, Navab, Ahmadi (2016), V-Net, 3DV, section 3: the Dice loss without weights.
    """
    real = ops.cast(mask != NO_IMAGE, mask.dtype)
    weights = weight_map(mask, strength) * real
    axes = (1, 2, 3) if dice_of == "image" else None
    overlap = ops.sum(weights * mask * probability, axes)
    size = ops.sum(weights * (mask + probability), axes)
    if dice_of == "image":
        loss = 1 - (2 * overlap + smooth) / (size + smooth)
        # An image that only fills the batch has loss 0.
        total, images = sum_over_devices([ops.sum(loss), ops.sum(ops.max(real, axes))])
        return total / images
    overlap, size = sum_over_devices([overlap, size])
    return 1 - (2 * overlap + smooth) / (size + smooth)


def mean_cross_entropy(mask, probability):
    """Compute the binary cross-entropy, averaged over all pixels of a batch on all devices.

    ``-Σ (y·log p + (1 - y)·log(1 - p)) / pixels``; arguments as of `weighted_dice_loss`.
    """
    counts = ops.cast(mask != NO_IMAGE, probability.dtype)
    entropy = counts * ops.binary_crossentropy(mask * counts, probability)
    total, pixels = sum_over_devices([ops.sum(entropy), ops.sum(counts)])
    return total / pixels


@keras.saving.register_keras_serializable("lesions")
class WeightedDiceLoss(keras.losses.Loss):
    """`weighted_dice_loss`, plus so many times the `mean_cross_entropy`, always in float32.

    Of several channels (deep supervision) the first is the answer, and each counts half as much as
    the one before; together they count one.
    """

    def __init__(
        self,
        weight_strength,
        cross_entropy,
        dice_of="batch",
        dice_smooth=1.0,
        name="weighted_dice_loss",
    ):
        # A float16 sum over a batch of images would be infinite.
        super().__init__(name=name, dtype="float32")
        self.weight_strength, self.cross_entropy = weight_strength, cross_entropy
        self.dice_of, self.dice_smooth = dice_of, dice_smooth

    def call(self, mask, probability):
        maps = ops.split(probability, probability.shape[-1], axis=-1)
        shares = [0.5**level for level in range(len(maps))]
        losses = [s * self.loss_of(mask, p) for s, p in zip(shares, maps, strict=True)]
        loss = sum(losses) / sum(shares)
        # As a vector of one: Keras gives each of several devices its share of a mean, not of a scalar.
        return ops.expand_dims(loss, 0)

    def loss_of(self, mask, probability):
        loss = weighted_dice_loss(
            mask, probability, self.weight_strength, self.dice_of, self.dice_smooth
        )
        if self.cross_entropy:
            loss += self.cross_entropy * mean_cross_entropy(mask, probability)
        return loss

    def get_config(self):
        return {
            "weight_strength": self.weight_strength,
            "cross_entropy": self.cross_entropy,
            "dice_of": self.dice_of,
            "dice_smooth": self.dice_smooth,
            "name": self.name,
        }


@keras.saving.register_keras_serializable("lesions")
class OverlapMetrics(keras.metrics.Metric):
    """Dice, precision and recall of all pixels seen since the last reset.

    Three counts are kept and the ratios taken at the end, so the metrics do not depend on the size
    of the batches: ``dice = 2 TP / (P + R)``, ``precision = TP / P``, ``recall = TP / R`` with P
    the predicted, R the reference pixels and TP those in both. A ratio of nothing is 1 if both are
    empty and 0 otherwise.
    """

    def __init__(self, name="overlap"):
        # A float32 count stops growing at 2**24 pixels, which is 290 images.
        super().__init__(name=name, dtype="float64")
        self.both, self.predicted, self.reference = (
            self.add_weight(name=count, initializer="zeros", dtype="float64")
            for count in ("both", "predicted", "reference")
        )

    def update_state(self, mask, probability, sample_weight=None):
        probability = probability[..., :1]  # the answer; deep supervision's levels follow
        # Counts within one batch are small enough for float32.
        prediction = ops.cast((probability > 0.5) & (mask != NO_IMAGE), "float32")
        mask = ops.cast(mask == 1, "float32")
        for count, pixels in (
            (self.both, mask * prediction),
            (self.predicted, prediction),
            (self.reference, mask),
        ):
            count.assign_add(ops.cast(ops.sum(pixels), count.dtype))

    def result(self):
        empty = ops.cast(self.predicted + self.reference == 0, self.both.dtype)

        def ratio(count, total):
            return ops.where(total > 0, count / ops.maximum(total, 1), empty)

        return {
            "dice": ratio(2 * self.both, self.predicted + self.reference),
            "precision": ratio(self.both, self.predicted),
            "recall": ratio(self.both, self.reference),
        }

    def get_config(self):
        return {"name": self.name}
