"""An image's file in, a thumbnail out: what is returned is published to the topic of the trigger."""

import base64
import io
from urllib.parse import unquote_plus

from PIL import Image

LONGEST_SIDE = 128
PIXELS_MAX = 40_000_000  # beyond this an image is a bomb, not a photograph


def handler(event, context):
    file = event["Records"][0]["s3"]["object"]  # S3's notification: its keys are URL-encoded
    name = unquote_plus(file["key"])
    if "content" not in file:
        raise ValueError(f"{name} has {file['size']} bytes: too many for an event")
    image = Image.open(io.BytesIO(base64.b64decode(file["content"])))
    if image.width * image.height > PIXELS_MAX:
        raise ValueError(f"{name} has more than {PIXELS_MAX} pixels")
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    out = io.BytesIO()
    image.convert("RGB").save(out, "JPEG", quality=80)
    return {
        "name": name,
        "width": image.width,
        "height": image.height,
        "jpeg": base64.b64encode(out.getvalue()).decode(),
    }
