"""Drives a broker with paho-mqtt; prints a line for each thing that works, and ends with 1 at the first that does not.

    paho_client.py 3.1|3.1.1|5.0 PORT WEBSOCKET_PORT
"""
import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

VERSIONS = {"3.1": mqtt.MQTTv31, "3.1.1": mqtt.MQTTv311, "5.0": mqtt.MQTTv5}
VERSION = VERSIONS[sys.argv[1]]
PORTS = {"tcp": int(sys.argv[2]), "websockets": int(sys.argv[3])}
LONG = 60  # seconds after which something that should have come never will


class Client:
    """A connected client with its messages and acknowledgements in queues."""

    def __init__(self, name, transport="tcp", clean=True, will=None, expiry=None):
        five = VERSION == mqtt.MQTTv5
        options = {} if five else {"clean_session": clean}
        self.mqtt = mqtt.Client(name, protocol=VERSION, transport=transport, **options)
        self.messages, self.published, self.subscribed, self.connects = (queue.Queue() for _ in range(4))
        self.mqtt.on_message = lambda _c, _u, message: self.messages.put(message)
        self.mqtt.on_publish = lambda _c, _u, mid: self.published.put(mid)
        self.mqtt.on_subscribe = lambda *words: self.subscribed.put(words)
        self.mqtt.on_connect = lambda _c, _u, flags, code, *_: self.connects.put((flags, code))
        if transport == "websockets":
            self.mqtt.ws_set_options(path="/mqtt")
        if will:
            self.mqtt.will_set(*will)
        session = {}
        if five:
            properties = Properties(PacketTypes.CONNECT)
            if expiry:
                properties.SessionExpiryInterval = expiry
            session = {"clean_start": clean, "properties": properties}
        self.mqtt.connect("127.0.0.1", PORTS[transport], **session)
        self.mqtt.loop_start()
        self.flags, code = self.connects.get(timeout=LONG)
        assert code == 0, code

    def subscribe(self, topic, qos):
        self.mqtt.subscribe(topic, qos)
        self.subscribed.get(timeout=LONG)

    def publish(self, topic, payload, qos, **more):
        """Waits for the acknowledgement."""
        self.mqtt.publish(topic, payload, qos, **more).wait_for_publish()

    def next(self):
        return self.messages.get(timeout=LONG)

    def leave(self):
        self.mqtt.disconnect()
        self.mqtt.loop_stop()


def tell(transport, text):
    print(f"{transport}: {text}", flush=True)


def every_qos(transport):
    client = Client("qos", transport)
    client.subscribe("q/#", 2)
    for qos in range(3):
        client.publish(f"q/{qos}", f"payload {qos}", qos)
        message = client.next()
        assert (message.topic, message.qos, message.retain) == (f"q/{qos}", qos, 0), message
        assert message.payload == f"payload {qos}".encode()
    client.leave()
    tell(transport, "qos 0 1 2")


def retained():
    client = Client("retained")
    client.publish("r/x", "kept", 1, retain=True)
    client.subscribe("r/#", 1)
    message = client.next()
    assert (message.payload, message.retain) == (b"kept", 1)
    client.publish("r/x", None, 1, retain=True)
    assert client.next().payload == b""
    client.leave()
    late = Client("late")
    late.subscribe("r/#", 1)
    late.publish("r/end", "end", 1)
    assert late.next().payload == b"end"
    late.leave()
    tell("tcp", "retained, and cleared")


def session():
    first = Client("session", clean=False, expiry=3600)
    first.subscribe("s/#", 2)
    first.leave()
    publisher = Client("publisher")
    for number in range(200):
        for qos in (1, 2):
            publisher.publish(f"s/{qos}", str(number), qos)
    publisher.leave()
    again = Client("session", clean=False, expiry=3600)
    if VERSION != mqtt.MQTTv31:
        assert again.flags["session present"] == 1
    messages = [again.next() for _ in range(400)]
    for qos in (1, 2):  # a client hands a QoS 2 message on at its PUBREL, after QoS 1 messages that came later
        numbers = [int(message.payload) for message in messages if message.qos == qos]
        assert numbers == list(range(200)), numbers
    again.leave()
    tell("tcp", "session kept, in order")


def will():
    watcher = Client("watcher")
    watcher.subscribe("w", 1)
    doomed = Client("doomed", will=("w", "gone", 1))
    doomed.mqtt.loop_stop()
    doomed.mqtt.socket().close()
    assert watcher.next().payload == b"gone"
    watcher.leave()
    tell("tcp", "will")


def properties():
    client = Client("properties")
    client.subscribe("p", 1)
    sent = Properties(PacketTypes.PUBLISH)
    sent.ContentType = "text/plain"
    sent.MessageExpiryInterval = 100
    sent.UserProperty = [("b", "1"), ("a", "2"), ("b", "1")]
    client.publish("p", "x", 1, properties=sent)
    got = client.next().properties
    assert got.ContentType == "text/plain"
    assert got.UserProperty == [("b", "1"), ("a", "2"), ("b", "1")], got.UserProperty
    assert 98 <= got.MessageExpiryInterval <= 100
    client.leave()
    tell("tcp", "properties")


def shared():
    members = [Client("one"), Client("other")]
    for member in members:
        member.subscribe("$share/g/jobs", 1)
    publisher = Client("publisher")
    for number in range(20):
        publisher.publish("jobs", str(number), 1)
    # In turn: each waits for a half of its own.
    numbers = [int(member.next().payload) for member in members for _ in range(10)]
    assert sorted(numbers) == list(range(20)), numbers
    for client in (*members, publisher):
        client.leave()
    tell("tcp", "shared subscription")


def aliases():
    client = Client("aliases")
    client.subscribe("alias/long/name", 1)
    alias = Properties(PacketTypes.PUBLISH)
    alias.TopicAlias = 3
    for number, topic in enumerate(["alias/long/name", "", ""]):
        client.publish(topic, str(number), 1, properties=alias)
        message = client.next()
        assert (message.topic, message.payload) == ("alias/long/name", str(number).encode()), message
    client.leave()
    tell("tcp", "topic alias")


def burst():
    """More messages at once than may be in flight: flow control lets all of them through, in order."""
    subscriber, publisher = Client("sink"), Client("source")
    subscriber.subscribe("f", 2)
    waiting = [publisher.mqtt.publish("f", str(number), 2) for number in range(3000)]
    assert [int(subscriber.next().payload) for _ in waiting] == list(range(len(waiting)))
    for one in waiting:
        one.wait_for_publish()
    subscriber.leave()
    publisher.leave()
    tell("tcp", "burst at qos 2")


every_qos("tcp")
retained()
session()
will()
every_qos("websockets")
burst()
shared()
if VERSION == mqtt.MQTTv5:
    properties()
    aliases()
