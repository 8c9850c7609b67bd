"""A Kafka cluster of one broker: librdkafka's own mock, in a process of its own. Prints host:port, runs until killed.

python -m tests.triggers.mock_kafka
"""

from __future__ import annotations

import signal

from confluent_kafka import Producer

cluster = Producer({"bootstrap.servers": "127.0.0.1:1", "test.mock.num.brokers": 1, "log_level": 0})
(broker,) = cluster.list_topics(timeout=30).brokers.values()
print(f"{broker.host}:{broker.port}", flush=True)
signal.pause()
