"""Two recipes of MONAI's parts: its own BasicUNet, and nnU-Net's in 2D where its package cannot be.

Both have the same attributes and methods, which `monai_unet.Fitting` uses; monai is imported by the methods.
"""

import numpy as np

BOTH = ("image", "mask")


class BasicUNetRecipe:
    """MONAI's usual recipe for its BasicUNet."""

    name = "monai"
    batch = 8
    patch = None  # the whole slice
    empty_per_lesion = None  # as settings say
    mirrored_axes = ((),)  # none beside the head as it is

    def network(self):
        from monai.networks.nets import BasicUNet

        return BasicUNet(spatial_dims=2, in_channels=1, out_channels=1)

    def loss(self):
        from monai.losses import DiceCELoss

        return DiceCELoss(sigmoid=True, batch=True)

    def optimizer(self, parameters):
        import torch

        return torch.optim.AdamW(parameters, 1e-3, weight_decay=1e-5)

    def schedule(self, optimizer, steps):
        import torch

        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def transforms(self):
        from monai.transforms import (
            RandAffined,
            RandFlipd,
            RandGaussianNoised,
            RandScaleIntensityd,
            RandShiftIntensityd,
        )

        return [
            RandFlipd(BOTH, prob=0.5, spatial_axis=1),  # left-right
            RandAffined(
                BOTH,
                prob=0.5,
                rotate_range=np.radians(15),
                scale_range=(0.1, 0.1),
                translate_range=(12, 12),
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            RandGaussianNoised("image", prob=0.15, std=0.1),
            RandScaleIntensityd("image", factors=0.1, prob=0.5),
            RandShiftIntensityd("image", offsets=0.1, prob=0.5),
        ]


class NnUNetRecipe:
    """nnU-Net's network, loss, augmentation and schedule in 2D, as planned for brains at 1 mm and 8 GB.

    What differs: one probability in place of two classes; outputs of deep supervision are enlarged
    instead of masks made smaller; the best of four validations in place of the last weights.
    """

    name = "nnunet-recipe"
    batch = 76
    patch = (224, 160)
    empty_per_lesion = 2.0  # a third of a batch has lesion
    mirrored_axes = ((), (-1,), (-2,), (-2, -1))
    stages = 6
    supervised = stages - 2  # all levels but the two lowest

    def network(self):
        from monai.networks.nets import DynUNet

        return DynUNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            kernel_size=[3] * self.stages,
            strides=[1] + [2] * (self.stages - 1),
            upsample_kernel_size=[2] * (self.stages - 1),
            filters=[32, 64, 128, 256, 512, 512],
            deep_supervision=True,
            deep_supr_num=self.supervised - 1,
        )

    def loss(self):
        from monai.losses import DeepSupervisionLoss, DiceCELoss

        weights = 0.5 ** np.arange(self.supervised)
        loss = DeepSupervisionLoss(
            DiceCELoss(sigmoid=True, batch=True), weights=(weights / weights.sum()).tolist()
        )
        return lambda outputs, masks: loss(outputs.unbind(1), masks)

    def optimizer(self, parameters):
        import torch

        return torch.optim.SGD(parameters, 1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5)

    def schedule(self, optimizer, steps):
        import torch

        return torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, power=0.9)

    def transforms(self):
        from monai.transforms import (
            RandAdjustContrastd,
            RandFlipd,
            RandGaussianNoised,
            RandGaussianSmoothd,
            RandRotated,
            RandScaleIntensityd,
            RandScaleIntensityFixedMeand,
            RandSimulateLowResolutiond,
            RandZoomd,
        )

        modes = ("bilinear", "nearest")
        gamma = {"gamma": (0.7, 1.5), "retain_stats": True}
        return [
            RandRotated(BOTH, prob=0.2, range_x=np.pi, mode=modes, padding_mode="zeros"),
            RandZoomd(
                BOTH, prob=0.2, min_zoom=0.7, max_zoom=1.4, mode=modes, padding_mode="constant"
            ),
            RandGaussianNoised("image", prob=0.1, std=np.sqrt(0.1)),
            RandGaussianSmoothd("image", prob=0.2, sigma_x=(0.5, 1), sigma_y=(0.5, 1)),
            RandScaleIntensityd("image", prob=0.15, factors=0.25),
            RandScaleIntensityFixedMeand("image", prob=0.15, factors=0.25, preserve_range=True),
            RandSimulateLowResolutiond(
                "image", prob=0.25, zoom_range=(0.5, 1), upsample_mode="bilinear"
            ),
            RandAdjustContrastd("image", prob=0.1, invert_image=True, **gamma),
            RandAdjustContrastd("image", prob=0.3, **gamma),
            RandFlipd(BOTH, prob=0.5, spatial_axis=0),
            RandFlipd(BOTH, prob=0.5, spatial_axis=1),
        ]


RECIPES = {recipe.name: recipe for recipe in (BasicUNetRecipe(), NnUNetRecipe())}
