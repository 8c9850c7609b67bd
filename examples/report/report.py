"""One function, two triggers: a schedule's tick and a topic's event tell themselves apart by their shape."""


def handler(event, context):
    if event.get("detail-type") == "Scheduled Event":
        print(f"the report of the night of {event['time'][:10]}")
        return {"reported": event["time"]}
    print(f"order {event['id']}: {event['data']['amount']} were paid")
    return {"order": event["id"], "amount": event["data"]["amount"]}
