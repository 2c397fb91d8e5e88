"""Pictures as people see them: upright, on a white ground, 8 bits a channel, in sRGB.

Pillow's own `convert("RGB")` ignores the orientation of cameras, shows the colors that transparency hides, clips grey
of 16 bits at 255, and takes the numbers of every color profile for those of sRGB.
"""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms
from PIL.Image import Transpose

ORIENTATION = 0x0112
"""The EXIF tag."""
UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""Orientation -> what makes the picture upright (EXIF 2.32, section 4.6.4)."""
GROUND = (255, 255, 255)
"""Color under transparent pixels: that of a page."""
GREY_16_BITS = 65535
SRGB_GAMMA = 1 / 2.2
"""What PNG's gAMA says of a picture that is nearly sRGB."""
SAME = 1
"""A color profile that changes no 8-bit level by more than this is sRGB's own."""


def read_picture(data: bytes) -> Image.Image:
    """A picture file's contents as people see them, as an RGB image.

    Orientation (EXIF) is applied. Transparent pixels lie on white. Grey of 16 bits is scaled. Colors are converted to
    sRGB from the embedded ICC profile, or by PNG's gamma; as in viewers, a profile that is damaged or is made for
    another kind of color is ignored.

    Raises:
        Exception: whatever Pillow raises for a damaged file, which may be of any class.
    """
    with Image.open(io.BytesIO(data)) as image:
        colors, alpha = _split(image)
        seen = _in_srgb(colors, image)
        if alpha is not None:
            ground = Image.new("RGB", seen.size, GROUND)
            ground.paste(seen, mask=alpha)
            seen = ground
        turn = UPRIGHT.get(_orientation(image))
        return seen if turn is None else seen.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:
        # Damaged EXIF data raises a dozen kinds of errors. Viewers show such a picture as it is stored.
        return 1


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colors in mode L, RGB or CMYK; and the opacity in mode L, None where all is opaque."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _grey_of_16_bits(image)
    if image.mode == "F":
        raise ValueError("its numbers are floating-point, which have no black and white")
    if image.has_transparency_data:
        whole = image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
        return whole.convert(whole.mode[:-1]), whole.getchannel("A")
    kept = {"1": "L", "L": "L", "CMYK": "CMYK"}.get(image.mode, "RGB")
    return image.convert(kept), None


def _grey_of_16_bits(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > GREY_16_BITS:
        raise ValueError("its grey has more than 16 bits")
    grey = Image.fromarray(np.rint(values * (255 / GREY_16_BITS)).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is None:
        return grey, None
    return grey, Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))


def _in_srgb(colors: Image.Image, image: Image.Image) -> Image.Image:
    """Colors, in mode L, RGB or CMYK, as RGB in sRGB."""
    profile, gamma = image.info.get("icc_profile"), image.info.get("gamma")
    if profile:
        if (found := _conversion(profile, colors.mode)) is not None:
            mode, transform = found
            return ImageCms.applyTransform(colors.convert(mode), transform) or colors.convert("RGB")
    elif image.format == "PNG" and gamma and "srgb" not in image.info and abs(gamma / SRGB_GAMMA - 1) > 0.01:
        light = (np.arange(256) / 255) ** (1 / gamma)
        levels = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        rgb = colors.convert("RGB")
        return rgb.point(np.rint(levels * 255).astype(int).tolist() * 3)
    return colors.convert("RGB")


@lru_cache(maxsize=16)
def _conversion(profile: bytes, mode: str) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """The mode to give an image of a mode, and its conversion to sRGB; None: there is nothing to convert.

    Relative colorimetric with black point compensation, as browsers convert.
    """
    try:
        origin = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = origin.profile.xcolor_space.strip()
        needed = {("RGB", "RGB"): "RGB", ("RGB", "L"): "RGB", ("GRAY", "L"): "L", ("CMYK", "CMYK"): "CMYK"}
        if (taken := needed.get((space, mode))) is None:
            return None
        transform = ImageCms.buildTransform(
            origin,
            ImageCms.createProfile("sRGB"),
            taken,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if taken == "RGB" and _is_srgb(transform):
            return None
    except (OSError, ImageCms.PyCMSError):
        return None
    return taken, transform


def _is_srgb(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a conversion changes nothing: most profiles are sRGB's, whose pictures stay as they are, bit for bit."""
    levels = np.linspace(0, 255, 18).astype(np.uint8)
    colors = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(1, -1, 3)
    image = Image.fromarray(colors)
    converted = np.asarray(ImageCms.applyTransform(image, transform))
    return bool(np.abs(converted.astype(int) - colors).max() <= SAME)
