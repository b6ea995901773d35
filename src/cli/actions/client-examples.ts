/** Examples to paste that connect a first client to a broker that `godwit setup` made. */
import { shellWord } from '../../transport/tls/shell-word.ts'

/** The settings that a client needs to connect. */
export interface ClientSettings {
  /** A name or address in the server's certificate. */
  readonly host: string
  readonly port: number
  readonly webSocketPort: number
  /** The path of the authorities' certificates; `ca` is their PEM text. */
  readonly caFile: string
  readonly ca: string
  readonly userName: string
  readonly password: string
}

/** Returns blocks of lines, each under a heading. */
export function clientExamples(settings: ClientSettings): string {
  const { host, port, webSocketPort, caFile, ca, userName, password } = settings
  const urlHost = host.includes(':') ? `[${host}]` : host
  const url = `mqtts://${urlHost}:${port}`
  const credentials = `-u ${userName} -P ${shellWord(password)}`
  return `mosquitto_pub (other users of this machine can see the password while it runs;
put -u and -P into ~/.config/mosquitto_pub to avoid this):

mosquitto_pub -h ${host} -p ${port} --cafile ${shellWord(caFile)} ${credentials} -q 1 -t hello/world -m hi

JavaScript, with MQTT.js (a browser that trusts ca.crt uses wss://${urlHost}:${webSocketPort}/mqtt):

import { readFileSync } from 'node:fs'
import mqtt from 'mqtt'
const client = await mqtt.connectAsync(${text(url)}, {
  ca: readFileSync(${text(caFile)}), username: ${text(userName)}, password: ${text(password)},
})
await client.publishAsync('hello/world', 'hi', { qos: 1 })
await client.endAsync()

Python, with paho-mqtt:

import paho.mqtt.publish as publish
publish.single("hello/world", "hi", qos=1, hostname=${text(host)}, port=${port},
    auth={"username": ${text(userName)}, "password": ${text(password)}}, tls={"ca_certs": ${text(caFile)}})

ESP32 (C++, Arduino, with PubSubClient):

#include <WiFi.h>
#include <WiFiClientSecure.h>
#include <PubSubClient.h>
static const char CA[] = R"(${ca.trim()}
)";
WiFiClientSecure tls;
PubSubClient client(tls);
void setup() {
  WiFi.begin("NETWORK", "ITS PASSWORD");
  while (WiFi.status() != WL_CONNECTED) delay(100);
  configTime(0, 0, "pool.ntp.org");  // certificates need the right time
  while (time(nullptr) < 1700000000) delay(100);
  tls.setCACert(CA);
  client.setServer(${text(host)}, ${port});
  if (client.connect("esp32", ${text(userName)}, ${text(password)})) client.publish("hello/world", "hi");
}
void loop() { client.loop(); }
`
}

/** Quotes a value as a string literal that is valid in all of these languages. */
function text(value: string): string {
  return JSON.stringify(value)
}
