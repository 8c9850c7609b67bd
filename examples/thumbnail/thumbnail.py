"""A JPEG in, a smaller JPEG out."""

import base64
import io
import os

from PIL import Image

LONGEST_SIDE = int(os.environ.get("LONGEST_SIDE", "128"))
PIXELS_MAX = 40_000_000  # beyond this an image is a bomb, not a photograph


def handler(event, context):
    if not event.get("isBase64Encoded"):
        return {"statusCode": 415, "body": "send an image, with its Content-Type"}
    try:
        image = Image.open(io.BytesIO(base64.b64decode(event["body"])))
        if image.width * image.height > PIXELS_MAX:
            return {"statusCode": 413, "body": f"an image has at most {PIXELS_MAX} pixels here"}
        image.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))  # lets the JPEG decoder skip what nobody will see
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    except (Image.DecompressionBombError, OSError):
        return {"statusCode": 415, "body": "this is no image that Pillow can read"}
    out = io.BytesIO()
    image.convert("RGB").save(out, "JPEG", quality=80)
    print(f"{image.width}x{image.height}, {out.tell()} bytes")
    return {
        "statusCode": 200,
        "headers": {"content-type": "image/jpeg"},
        "body": base64.b64encode(out.getvalue()).decode(),
        "isBase64Encoded": True,
    }
