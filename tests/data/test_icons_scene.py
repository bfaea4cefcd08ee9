import numpy as np
import pytest

from balms_det.icons import SceneStyle
from balms_det.icons.drawing import Sprite, draw_sprite
from balms_det.icons.scene import NO_CLASS, Item, Scene, compose


def square(side, value):
    return Sprite(np.full((side, side, 3), value, np.float32), np.ones((side, side), np.float32))


def blank_scene(size=192, **style):
    return Scene(np.zeros((size, size, 3), np.float32), SceneStyle(**style))


def test_masks_of_overlapping_items_are_what_is_seen():
    scene = blank_scene()
    scene.paint(Item(0, "", area=400), square(20, 100), 10, 10)
    scene.paint(Item(1, "", area=400), square(20, 200), 20, 10)
    masks = scene.visible_masks()
    assert not (masks[0] & masks[1]).any()
    assert (masks[0] == (scene.canvas[..., 0] == 100)).all()
    assert (masks[1] == (scene.canvas[..., 0] == 200)).all()
    assert masks[0].sum() == 200
    assert masks[1].sum() == 400


def test_no_item_may_hide_more_than_the_style_allows():
    scene = blank_scene(min_visible=0.5)
    scene.paint(Item(0, "", area=400), square(20, 100), 10, 10)
    front = Item(1, "", area=400)
    assert scene.fits(front, square(20, 0), 20, 10)
    assert not scene.fits(front, square(20, 0), 19, 10)


def test_distractors_may_be_hidden_and_have_no_mask():
    scene = blank_scene()
    scene.paint(Item(NO_CLASS, "", area=400), square(20, 100), 10, 10)
    assert scene.fits(Item(0, "", area=400), square(20, 0), 10, 10)
    assert scene.visible_masks() == {}


def test_an_item_outside_the_image_does_not_fit():
    assert not blank_scene().fits(Item(0, "", area=400), square(20, 0), 500, 500)
    assert not blank_scene().fits(Item(0, "", area=400), square(20, 0), -15, 0)


def test_too_small_a_visible_part_does_not_fit():
    assert not blank_scene(min_area=500).fits(Item(0, "", area=400), square(20, 0), 50, 50)


@pytest.mark.parametrize("seed", range(3))
def test_composed_scenes_show_every_class_and_enough_of_each_icon(seed):
    pytest.importorskip("fonticon_mdi7", reason="needs fonticon-materialdesignicons7")
    style = SceneStyle()
    rng = np.random.default_rng(seed)
    scene = compose([0, 1, 1, 2], [("cat", 0.0), ("truck", 0.3), ("bee", 0.6)], 192, style, rng)
    masks = scene.visible_masks()
    assert {scene.items[i].class_index for i in masks} == {0, 1, 2}
    assert (np.sum(list(masks.values()), axis=0) <= 1).all()
    for i, mask in masks.items():
        assert mask.sum() >= max(style.min_area, style.min_visible * scene.items[i].area)


def test_a_sprite_is_opaque_inside_and_of_the_size_asked_for():
    pytest.importorskip("fonticon_mdi7", reason="needs fonticon-materialdesignicons7")
    style = SceneStyle(rotation_deg=0, shear=0, stretch=0, perspective=0, icon_blur=0, outline=0)
    sprite = draw_sprite("basketball", 60, style, np.random.default_rng(0))
    rows = np.flatnonzero(sprite.mask.any(1))
    assert abs(rows[-1] - rows[0] + 1 - 60) <= 3
    middle = np.array(sprite.alpha.shape) // 2
    assert sprite.alpha[tuple(middle)] == 1


def test_style_replace_converts_and_names_wrong_knobs():
    style = SceneStyle().replace(noise="25", jpeg_min="40")
    assert (style.noise, style.jpeg_min) == (25.0, 40)
    with pytest.raises(KeyError, match="nosuch"):
        SceneStyle().replace(nosuch=1)
    with pytest.raises(ValueError, match="min_px"):
        SceneStyle().replace(min_px=200)
    with pytest.raises(ValueError, match="noise"):
        SceneStyle(noise=-1)
    with pytest.raises(ValueError, match="jpeg_min"):
        SceneStyle(jpeg_min=0)
