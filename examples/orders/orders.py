"""An order's way: checked in batches from a queue, shipped by a topic's event; about what is none, one complains."""

import json


def check(event, context):
    """Every message of the batch by itself: a bad one must not hold up the good ones beside it."""
    checked, failed = [], []
    for record in event["Records"]:
        try:
            order = json.loads(record["body"])
            total = sum(item["price"] * item["count"] for item in order["items"])
            checked.append({"order": order["order"], "total": total})
        except (ValueError, KeyError, TypeError) as exc:
            print(f"message {record['messageId']} is no order ({exc!r}): {record['body'][:80]}")
            failed.append({"itemIdentifier": record["messageId"]})
    return {"checked": checked, "batchItemFailures": failed}


def ship(event, context):
    for order in event["data"]["checked"]:
        print(f"order {order['order']} is shipped, {order['total']} to pay")


def complain(event, context):
    for record in event["Records"]:
        reason = record["messageAttributes"]["jiffy-reason"]["stringValue"]
        print(f"nobody could check {record['body'][:80]!r}: {reason}")
