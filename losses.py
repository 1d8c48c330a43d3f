"""Weighted Dice: the boundary weight map, the loss, and the figures watched while training.

Only `keras` and `keras.ops` compute, so that every backend finds the same.
Shape letters: B images of a batch, H, W pixels.
"""

import keras
from keras import ops

from hardware import sum_over_devices

# In the mask of an image that counts for nothing.
NO_IMAGE = 255


def boundary_band(mask):
    """Mark the pixels on either side of the mask's edge: 3×3 dilation minus 3×3 erosion.

    Parameters
    ----------
    mask : tensor, float, shape (B, H, W, 1)
        0 or 1.

    Returns
    -------
    tensor, float, shape (B, H, W, 1)
        1 on the band, which is two pixels wide, 0 elsewhere. The frame of the image is no edge.
    """
    # The largest of a window is a dilation, and minus the largest of minus is an erosion.
    dilated = ops.max_pool(mask, 3, strides=1, padding="same")
    eroded = -ops.max_pool(-mask, 3, strides=1, padding="same")
    return dilated - eroded


def weight_map(mask, strength):
    """Weigh each pixel: 1, but less on the hand-drawn edge, on which raters do not agree.

    ``w = 1 / (1 + strength · e)`` with `e` the `boundary_band`: on the band 0.5 for strength 1,
    0.556 for 0.8, and 1 everywhere for 0.

    Parameters
    ----------
    mask : tensor, float, shape (B, H, W, 1)
    strength : float
        0 or more.

    Returns
    -------
    tensor, float, shape (B, H, W, 1)
        In (0, 1].
    """
    return 1 / (1 + strength * boundary_band(mask))


def weighted_dice_loss(
    mask, probability, strength, dice_of, false_negative_weight=0.5, focal_power=1.0, smooth=1.0
):
    """Compute one minus the weighted Dice of a whole batch, or of its images, averaged.

    ``1 - (2 Σ w·y·p + smooth) / (Σ w·y + Σ w·p + smooth)``. Of a batch the sums go over all pixels
    of all its images, on however many devices, so that an image without lesion counts by what is
    wrongly marked on it, and a large lesion by its size. Of images each has its own sums, and all
    count the same: a lesion of one pixel that is missed costs half of what its image can. The
    weight stands in every sum: a perfect prediction has loss 0, and strength 0 gives plain Dice.

    Dice counts a missed pixel as much as one that is wrongly marked. With another
    ``false_negative_weight`` m the index is Tversky's: ``2m Σ w·y + 2(1 - m) Σ w·p`` stand below.

    Parameters
    ----------
    mask : tensor, float, shape (B, H, W, 1)
        0 or 1, or `NO_IMAGE`.
    probability : tensor, float, shape (B, H, W, 1)
        0 to 1.
    strength : float
        See `weight_map`.
    dice_of : "batch" or "image"
    false_negative_weight : float
        Above 0.5 what is missed costs more than what is wrongly marked.
    focal_power : float
        The loss (of each image, if of images) is raised to it.
    smooth : float
        Keeps what is without any lesion finite: then the loss is 0 if nothing is marked.

    Returns
    -------
    tensor, float, scalar
        0 (perfect) to 1.

    References
    ----------
    Milletari, Navab, Ahmadi (2016), V-Net, 3DV, section 3: the Dice loss without weights.
    Salehi, Erdogmus, Gholipour (2017), MLMI: Tversky's index as a loss. Abraham, Khan (2019), ISBI:
    its focal form, a false-negative weight of 0.7 and a power of 0.75.
    """
    counts = ops.cast(mask != NO_IMAGE, mask.dtype)
    weights = weight_map(mask, strength) * counts
    axes = None if dice_of == "batch" else (1, 2, 3)
    missed, wrong = 2 * false_negative_weight, 2 * (1 - false_negative_weight)
    overlap = ops.sum(weights * mask * probability, axes)
    size = ops.sum(weights * (missed * mask + wrong * probability), axes)

    def loss_of(overlap, size):
        loss = 1 - (2 * overlap + smooth) / (size + smooth)
        if focal_power == 1:
            return loss
        # At 0, which rounding may also pass, a power below 1 has no gradient.
        return ops.power(ops.maximum(loss, keras.config.epsilon()), focal_power)

    if dice_of == "batch":
        return loss_of(*sum_over_devices([overlap, size]))
    image_counts = ops.max(counts, axes)
    losses = image_counts * loss_of(overlap, size)
    total, images = sum_over_devices([ops.sum(losses), ops.sum(image_counts)])
    return total / images


def mean_cross_entropy(mask, probability):
    """Compute the binary cross-entropy, averaged over all pixels of a whole batch.

    ``-Σ (y·log p + (1 - y)·log(1 - p)) / pixels``, on however many devices.

    Parameters
    ----------
    mask : tensor, float, shape (B, H, W, 1)
        0 or 1, or `NO_IMAGE`.
    probability : tensor, float, shape (B, H, W, 1)
        0 to 1.

    Returns
    -------
    tensor, float, scalar
        0 (perfect) or more.
    """
    counts = ops.cast(mask != NO_IMAGE, probability.dtype)
    entropy = counts * ops.binary_crossentropy(mask * counts, probability)
    total, pixels = sum_over_devices([ops.sum(entropy), ops.sum(counts)])
    return total / pixels


@keras.saving.register_keras_serializable("lesions")
class WeightedDiceLoss(keras.losses.Loss):
    """`weighted_dice_loss` as a Keras loss, always in float32.

    Of several channels (see `unet.build_unet`, deep supervision) the first is the answer, and each
    counts half as much as the one before; together they count one.

    Parameters
    ----------
    strength : float
        See `weight_map`.
    cross_entropy : float
        So many times the mean binary cross-entropy of all pixels is added.
    dice_of : "batch" or "image"
    false_negative_weight, focal_power : float
        See `weighted_dice_loss`.
    """

    def __init__(
        self, strength, cross_entropy, dice_of, false_negative_weight=0.5, focal_power=1.0,
        name="weighted_dice_loss",
    ):  # fmt: skip
        # A float16 sum over a batch of images would be infinite.
        super().__init__(name=name, dtype="float32")
        self.cross_entropy = cross_entropy
        self.dice = {
            "strength": strength, "dice_of": dice_of,
            "false_negative_weight": false_negative_weight, "focal_power": focal_power,
        }  # fmt: skip

    def call(self, mask, probability):
        maps = ops.split(probability, probability.shape[-1], axis=-1)
        shares = [0.5**level for level in range(len(maps))]
        losses = [s * self.loss_of(mask, p) for s, p in zip(shares, maps, strict=True)]
        loss = sum(losses) / sum(shares)
        # As a vector of one: Keras gives each of several devices its share of a mean, not of a scalar.
        return ops.expand_dims(loss, 0)

    def loss_of(self, mask, probability):
        loss = weighted_dice_loss(mask, probability, **self.dice)
        if self.cross_entropy:
            loss += self.cross_entropy * mean_cross_entropy(mask, probability)
        return loss

    def get_config(self):
        return self.dice | {"cross_entropy": self.cross_entropy, "name": self.name}


@keras.saving.register_keras_serializable("lesions")
class OverlapMetrics(keras.metrics.Metric):
    """Dice, precision and recall of all pixels seen since the last reset.

    Three counts are kept and the ratios taken at the end, so the figures do not depend on the size
    of the batches: ``dice = 2 TP / (P + R)``, ``precision = TP / P``, ``recall = TP / R`` with P
    the predicted, R the reference pixels and TP those in both. A ratio of nothing is 1 if P and R
    are both empty and 0 otherwise.

    Parameters
    ----------
    threshold : float
        A pixel is predicted as lesion where its probability is above.
    """

    def __init__(self, threshold=0.5, name="overlap"):
        # A float32 count stops growing at 2**24 pixels, which is 290 images.
        super().__init__(name=name, dtype="float64")
        self.threshold = threshold
        self.both, self.predicted, self.reference = (
            self.add_weight(name=count, initializer="zeros", dtype="float64")
            for count in ("both", "predicted", "reference")
        )

    def update_state(self, mask, probability, sample_weight=None):
        probability = probability[..., :1]  # the answer; deep supervision's levels follow
        # Counts within one batch are small enough for float32.
        prediction = ops.cast((probability > self.threshold) & (mask != NO_IMAGE), "float32")
        mask = ops.cast(mask == 1, "float32")
        for count, pixels in (
            (self.both, mask * prediction),
            (self.predicted, prediction),
            (self.reference, mask),
        ):
            count.assign_add(ops.cast(ops.sum(pixels), count.dtype))

    def result(self):
        empty = ops.cast(self.predicted + self.reference == 0, self.both.dtype)

        def ratio(part, whole):
            return ops.where(whole > 0, part / ops.maximum(whole, 1), empty)

        return {
            "dice": ratio(2 * self.both, self.predicted + self.reference),
            "precision": ratio(self.both, self.predicted),
            "recall": ratio(self.both, self.reference),
        }

    def get_config(self):
        return {"threshold": self.threshold, "name": self.name}
