"""Runs the handler as the platform would: an HTTP event in payload format 2.0 in, a response out."""

from __future__ import annotations

import base64
import io
import runpy
from pathlib import Path
from typing import Any

from PIL import Image

handler = runpy.run_path(str(Path(__file__).with_name("thumbnail.py")))["handler"]


def post(body: bytes) -> dict[str, Any]:
    event = {
        "version": "2.0",
        "headers": {"content-type": "image/jpeg"},
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
    }
    answer: dict[str, Any] = handler(event, None)
    return answer


def jpeg(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(out, "JPEG")
    return out.getvalue()


def test_makes_it_smaller_and_keeps_its_shape() -> None:
    answer = post(jpeg(640, 320))
    assert answer["statusCode"] == 200
    assert answer["headers"]["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(base64.b64decode(answer["body"]))) as image:
        assert (image.format, image.size) == ("JPEG", (128, 64))


def test_leaves_a_small_one_as_large_as_it_is() -> None:
    with Image.open(io.BytesIO(base64.b64decode(post(jpeg(40, 30))["body"]))) as image:
        assert image.size == (40, 30)


def test_says_that_a_text_is_no_image() -> None:
    assert post(b"not an image")["statusCode"] == 415


def test_says_that_it_wants_bytes() -> None:
    assert handler({"body": "text", "isBase64Encoded": False}, None)["statusCode"] == 415
