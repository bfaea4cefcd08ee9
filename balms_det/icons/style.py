"""How difficult the scenes are: every knob of icons_lt's appearance in one place."""

import dataclasses
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class SceneStyle:
    """Appearance of the scenes; sizes are pixels at an image size of 192 and scale with it.

    Shares are probabilities in [0, 1].
    """

    min_px: float = 22.0  # longer side of an icon, drawn log-uniformly between the two
    max_px: float = 88.0
    rotation_deg: float = 20.0  # uniform in [-rotation, rotation]
    shear: float = 0.12
    stretch: float = 0.2  # aspect ratio changes by up to this share
    perspective: float = 0.06  # corners move by up to this share of the size
    outline: float = 0.35  # share of icons with a rim in another colour
    # Share of icons in the typical hue of their family. As with things in the world, colour tells
    # apples from engines, but look-alikes share it: it never tells a class from its family.
    typical_color: float = 0.75
    texture: float = 0.3  # share of surfaces with a texture; the others are plain or gradients
    contrast: float = 110.0  # least RGB distance (0-441) of an icon's two colours
    lighting: float = 0.35  # strength of the light's fall-off over an icon and over the scene
    shadow: float = 0.3  # share of icons that cast a shadow
    icon_blur: float = 0.15  # share of icons out of focus
    image_blur: float = 0.15  # share of images out of focus
    blur_px: float = 1.5  # largest blur radius
    noise: float = 10.0  # largest standard deviation of the sensor noise, in grey levels
    jpeg_min: int = 55
    jpeg_max: int = 95
    distractors: float = 1.5  # mean number of icons of no class in an image
    clutter: float = 4.0  # mean number of random polygons in the background
    bars: float = 0.5  # mean number of bars in front of icons
    crowding: float = 0.35  # share of icons placed beside or over another
    min_visible: float = 0.45  # least visible share of an annotated icon
    min_area: float = 70.0  # least visible area of an annotated icon, square pixels
    unlabelled: float = 0.15  # share of repeated classes of an image annotated only in part

    def replace(self, **changes: float) -> "SceneStyle":
        """A copy with some knobs changed, each converted to the knob's type.

        Raises:
            KeyError: there is no such knob.
            ValueError: a value is not a number, or out of range.
        """
        known = {field.name: field.type for field in dataclasses.fields(self)}
        for name in changes:
            if name not in known:
                raise KeyError(f"SceneStyle has no knob {name!r}; knobs: {', '.join(known)}")
        try:
            converted = {name: known[name](value) for name, value in changes.items()}
        except ValueError as error:
            raise ValueError(f"SceneStyle: {changes}: {error}") from error
        return dataclasses.replace(self, **converted)

    def __post_init__(self) -> None:
        if not 8 <= self.min_px <= self.max_px <= 160:
            raise ValueError(
                f"need 8 <= min_px <= max_px <= 160, got {self.min_px} and {self.max_px}"
            )
        if not 1 <= self.jpeg_min <= self.jpeg_max <= 100:
            raise ValueError(
                f"need 1 <= jpeg_min <= jpeg_max <= 100, got {self.jpeg_min} and {self.jpeg_max}"
            )
        names = [field.name for field in dataclasses.fields(self)]
        wrong = [name for name in names if not 0 <= getattr(self, name) < math.inf]
        if wrong:
            raise ValueError(f"SceneStyle: {', '.join(wrong)} must be finite and not negative")
