import platform


def handler(event, context):
    name = event.get("pathParameters", event).get("name", "world")
    print(f"greeting {name}")
    return {
        "message": f"Hello, {name}!",
        "python": platform.python_version(),
    }
