"""Short links over HTTP. The handler keeps nothing: links and visits are in Redis, so any instance serves any link."""

import base64
import json
import os
import secrets
from urllib.parse import urlsplit

import redis

URL_MAX = 2000
KEEP_S = 365 * 24 * 3600
store = redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True, socket_timeout=2)


def handler(event, context):
    method, code = event["requestContext"]["http"]["method"], event.get("pathParameters", {}).get("code")
    if method == "POST":
        return shorten(event)
    target = store.get(f"link:{code}")
    if target is None:
        return answer(404, {"message": f"there is no link {code}"})
    if event["rawPath"].endswith("/visits"):
        return answer(200, {"code": code, "url": target, "visits": int(store.get(f"visits:{code}") or 0)})
    store.incr(f"visits:{code}")
    return {"statusCode": 302, "headers": {"location": target, "cache-control": "no-store"}}


def shorten(event):
    body = event.get("body") or ""
    if event.get("isBase64Encoded"):
        body = base64.b64decode(body)
    try:
        target = json.loads(body)["url"]
        parts = urlsplit(target)
    except (ValueError, KeyError, TypeError, AttributeError):
        return answer(400, {"message": 'the body must be JSON such as {"url": "https://example.com"}'})
    if parts.scheme not in ("http", "https") or not parts.netloc or len(target) > URL_MAX or not target.isprintable():
        return answer(400, {"message": f"url must be http:// or https://, at most {URL_MAX} characters"})
    while True:
        code = secrets.token_urlsafe(6)
        if store.set(f"link:{code}", target, nx=True, ex=KEEP_S):
            return answer(201, {"code": code, "short": f"/s/{code}", "url": target})


def answer(status, document):
    return {"statusCode": status, "headers": {"content-type": "application/json"}, "body": json.dumps(document)}
