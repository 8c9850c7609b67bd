"""The kernel that gateway, invoker, builder and SDK share: what they say to each other, and in which words.

It does no I/O and imports none of them. Read in this order:

    spec      what a user declares about a function        (jiffy.toml, the deploy API)
    messages  what travels through Redis                    (Call, Answer, Usage, …)
    wire      messages ⇄ bytes
    keys      the name of every Redis key, and its type
    limits    every number that bounds something, and why it is that number
    meter     from microseconds to billed milliseconds
    errors    the one tree of errors: code, HTTP status, whose fault
    httpevent HTTP request ⇄ event, result ⇄ HTTP response   (Lambda payload format 2.0)
    routes    "GET /hello/{name}" → which function, which path parameters
"""
