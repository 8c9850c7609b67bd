"""A chat in the manner of ELIZA (Weizenbaum, 1966): the reply goes out word by word, while it is thought up."""

import random
import re
import time
from pathlib import Path

PAGE = Path(__file__).with_name("page.html").read_text()
THINKING_S = 0.05  # per word
TEXT_MAX_CHARS = 500

TURNED = {"i": "you", "me": "you", "my": "your", "am": "are", "i'm": "you are", "you": "I", "your": "my"}
RULES = (
    (r"i need (.+)", ("Why do you need {}?", "Would it really help you to get {}?")),
    (r"i(?:'m| am) (.+)", ("How long have you been {}?", "Why do you think you are {}?")),
    (r"i (?:feel|felt) (.+)", ("Do you often feel {}?", "What makes you feel {}?")),
    (r"because (.+)", ("Is that the real reason?", "What else could be the reason?")),
    (r"(?:hello|hi)\b(.*)", ("Hello. What is on your mind today?", "Hi. How are things going?")),
    (r"(.+)\?", ("Why do you ask that?", "What do you think yourself?")),
    (r"(.*)", ("Please tell me more.", "How does that make you feel?", "Can you say more about that?")),
)


def page(event, context):
    return {"statusCode": 200, "headers": {"content-type": "text/html; charset=utf-8"}, "body": PAGE}


def reply(event, context):
    text = (event.get("queryStringParameters") or {}).get("text", "")[:TEXT_MAX_CHARS]
    words = answer(text).split()
    try:
        for word in words:
            yield {"word": word}
            time.sleep(THINKING_S)
        yield {"done": len(words)}
    except GeneratorExit:  # who asked has closed the page: nobody pays for the rest
        print("interrupted")
        raise


def answer(text):
    said = text.strip().rstrip(".!").lower()
    for pattern, replies in RULES:
        if found := re.fullmatch(pattern, said):
            return random.choice(replies).format(turned(found[1]))
    return "Please tell me more."


def turned(text):
    """ "my cat hates me" → "your cat hates you" """
    return " ".join(TURNED.get(word, word) for word in text.split())
