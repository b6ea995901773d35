"""Clients of paho-mqtt that connect with a Will, publish three messages at QoS 0, say DISCONNECT and are gone.

    last_words.py tls|websockets PORT CLIENTS [CA_FILE]
"""
import sys
import threading

import paho.mqtt.client as mqtt

KIND, PORT, COUNT = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def speak(number):
    transport = "websockets" if KIND == "websockets" else "tcp"
    client = mqtt.Client(f"paho-{KIND}-{number}", transport=transport)
    if KIND == "tls":
        client.tls_set(sys.argv[4])
    else:
        client.ws_set_options(path="/mqtt")
    client.will_set("will", "lost")

    def connected(*_):
        for word in range(3):
            client.publish("last/words", f"{number} {word}")
        client.disconnect()

    client.on_connect = connected
    client.connect("127.0.0.1", PORT)
    client.loop_forever()


threads = [threading.Thread(target=speak, args=(number,)) for number in range(COUNT)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
