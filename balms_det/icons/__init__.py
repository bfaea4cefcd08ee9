"""icons_lt: a small long-tail instance segmentation dataset, drawn on the spot from icon artwork.

    from balms_det.icons import generate_icons
    generate_icons("datasets/icons_lt")

font (glyphs as masks) -> catalog (classes and look-alikes), plan (who appears where), style
(difficulty) -> surfaces, artwork, background, scene (pictures) -> polygons, render, writer
(LVIS v1 json) -> generate.
"""

from balms_det.icons.catalog import IconClass, build_catalog
from balms_det.icons.generate import generate_icons
from balms_det.icons.style import SceneStyle

__all__ = ["IconClass", "SceneStyle", "build_catalog", "generate_icons"]
