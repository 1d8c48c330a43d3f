"""The 2D U-Net, and the choice of the layers that learn.

Only `keras` layers are used, so that the network runs on every backend.
"""

import math

import keras
from keras import layers

from system.files import InputError
from training.layers import ByteDropout, DeepSupervision, FusedBatchNormalization

# Of the running mean and variance that validation and prediction use. With Keras' 0.99 they lag
# hundreds of steps behind and a short run validates on stale ones; 0.9 is PyTorch's.
MOMENTUM = 0.9
GROUPS = ("encoder", "bottleneck", "decoder", "head")


def build_unet(
    filters,
    levels,
    dropout,
    batch_normalisation,
    instance_normalisation,
    deep_supervision,
    foreground_prior,
    neighbours,
    downsampling,
):
    """Build a U-Net [1]_ for images whose sides are divisible by downsampling * 2**levels.

    The arguments are section ``unet`` of the settings. Every layer has a name of its own that does not
    change between builds (``encoder_1_conv_1``, ``decoder_4_up``, ``head``), by which weights are carried
    over and layers are frozen. With `downsampling` the first block sees means of squares of so many
    pixels a side.

    Returns
    -------
    keras.Model
        From (B, H, W, 2 * neighbours + 1) to the probability of lesion, float32, (B, H, W, 1); while
        training under deep supervision (B, H, W, levels - 1), the answer first.

    References
    ----------
    .. [1] Ronneberger, Fischer, Brox (2015), U-Net, MICCAI. Instance normalisation: Ulyanov, Vedaldi,
       Lempitsky (2016), arXiv:1607.08022. Deep supervision: Lee et al. (2015), AISTATS; its levels as
       in Isensee et al. (2021), nnU-Net, Nature Methods.
    """

    def normalise(x, name):
        if instance_normalisation:
            return layers.GroupNormalization(groups=-1, name=name)(x)
        if batch_normalisation:
            return FusedBatchNormalization(momentum=MOMENTUM, name=name)(x)
        return x

    def block(x, width, name):
        for i in (1, 2):
            x = layers.Conv2D(
                width,
                3,
                padding="same",
                use_bias=not (batch_normalisation or instance_normalisation),
                kernel_initializer="he_normal",
                name=f"{name}_conv_{i}",
            )(x)
            x = normalise(x, f"{name}_norm_{i}")
            x = layers.Activation("relu", name=f"{name}_relu_{i}")(x)
        return x

    def probability_of(x, name, factor=1):
        # The transposed one gives each pixel of a square an answer of its own.
        convolution = layers.Conv2DTranspose if factor > 1 else layers.Conv2D
        return convolution(
            1,
            factor,
            strides=factor,
            activation="sigmoid",
            dtype="float32",
            name=name,
            bias_initializer=keras.initializers.Constant(
                math.log(foreground_prior / (1 - foreground_prior))
            ),
        )(x)

    image = keras.Input((None, None, 2 * neighbours + 1), name="image")
    x, skips, coarse = image, [], []
    if downsampling > 1:
        x = layers.AveragePooling2D(downsampling, name="downsample")(x)
    for level in range(1, levels + 1):
        x = block(x, filters * 2 ** (level - 1), f"encoder_{level}")
        skips.append(x)
        x = layers.MaxPooling2D(name=f"encoder_{level}_pool")(x)  # halves H and W
        x = ByteDropout(dropout, name=f"encoder_{level}_dropout")(x)
    x = block(x, filters * 2**levels, "bottleneck")
    for level in range(levels, 0, -1):
        width = filters * 2 ** (level - 1)
        x = layers.Conv2DTranspose(width, 2, strides=2, name=f"decoder_{level}_up")(x)
        x = layers.Concatenate(name=f"decoder_{level}_skip")([skips.pop(), x])
        x = ByteDropout(dropout, name=f"decoder_{level}_dropout")(x)
        x = block(x, width, f"decoder_{level}")
        if deep_supervision and 1 < level < levels:
            small = probability_of(x, f"decoder_{level}_head")
            enlarge = layers.UpSampling2D(
                downsampling * 2 ** (level - 1), dtype="float32", name=f"decoder_{level}_enlarge"
            )
            coarse.insert(0, enlarge(small))
    probability = probability_of(x, "head", downsampling)
    if coarse:
        probability = DeepSupervision(dtype="float32", name="answer")([probability, *coarse])
    return keras.Model(image, probability, name="unet")


def choose_trainable(model, groups):
    """Let only some layer groups learn. To be called before `compile`, which takes it as it is.

    Parameters
    ----------
    model : keras.Model
    groups : "all", list of str or dict of str to float
        Beginnings of layer names: ``encoder``, ``bottleneck``, ``decoder``, ``head``, or finer, as
        ``decoder_1``. Values of a dict multiply the learning rate; of two names that fit a layer
        the longer one counts.

    Returns
    -------
    dict of str to float
        Factor of the learning rate by layer name; empty if all have one rate.
    """
    groups = list(GROUPS) if groups == "all" else groups
    for group in groups:
        if not any(_belongs(layer, group) and layer.weights for layer in model.layers):
            raise InputError(
                f"transfer.trainable: no layer with weights is named {group}; layer groups are "
                f"{', '.join(GROUPS)}, or finer, as encoder_1 or decoder_1"
            )
    rates = {}
    for layer in model.layers:
        fitting = [group for group in groups if _belongs(layer, group)]
        layer.trainable = bool(fitting)
        if fitting and isinstance(groups, dict):
            rates[layer.name] = groups[max(fitting, key=len)]
    return rates


def _belongs(layer, group):
    return layer.name == group or layer.name.startswith(f"{group}_")
