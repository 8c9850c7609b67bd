"""Hears of thumbnails: the event's data is what the function before returned."""

import base64


def handler(event, context):
    thumbnail = event["data"]
    size = len(base64.b64decode(thumbnail["jpeg"]))
    print(f"{thumbnail['name']}: {thumbnail['width']}x{thumbnail['height']}, {size} bytes")
