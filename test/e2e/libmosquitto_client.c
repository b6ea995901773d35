/*
 * Drives a broker with libmosquitto; prints a line for each thing that works, and ends with 1 at the first that does
 * not.
 *
 *     libmosquitto_client 3.1|3.1.1|5.0 PORT
 */
#include <mosquitto.h>
#include <mqtt_protocol.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define MESSAGES_MAX 5000
#define CLIENTS_MAX 8
/* After this many seconds something that should have come never will. */
#define LONG_S 60

struct message {
  char topic[64];
  char payload[64];
  int qos;
  bool retain;
};

struct client {
  struct mosquitto *mosq;
  bool connected, session_present, left;
  int code, subscribed, published, count, taken, topic_alias_maximum;
  int granted;
  struct message messages[MESSAGES_MAX];
};

static int version, port;
static struct client *clients[CLIENTS_MAX];
static int clients_count;

static void fail(const char *format, ...) {
  va_list words;
  va_start(words, format);
  vfprintf(stderr, format, words);
  va_end(words);
  fputc('\n', stderr);
  exit(1);
}

static void expect(bool holds, const char *what) {
  if (!holds) fail("does not hold: %s", what);
}

static void on_connect(struct mosquitto *mosq, void *of, int code, int flags, const mosquitto_property *properties) {
  struct client *client = of;
  uint16_t maximum = 0;
  (void)mosq;
  mosquitto_property_read_int16(properties, MQTT_PROP_TOPIC_ALIAS_MAXIMUM, &maximum, false);
  client->topic_alias_maximum = maximum;
  client->session_present = flags & 1;
  client->code = code;
  client->connected = true;
}

static void on_disconnect(struct mosquitto *mosq, void *of, int code) {
  (void)mosq, (void)code;
  ((struct client *)of)->left = true;
}

static void on_publish(struct mosquitto *mosq, void *of, int mid) {
  (void)mosq, (void)mid;
  ((struct client *)of)->published++;
}

static void on_subscribe(struct mosquitto *mosq, void *of, int mid, int count, const int *granted) {
  struct client *client = of;
  (void)mosq, (void)mid;
  client->subscribed++;
  client->granted = granted[count - 1];
}

static void on_message(struct mosquitto *mosq, void *of, const struct mosquitto_message *got) {
  struct client *client = of;
  (void)mosq;
  if (client->count == MESSAGES_MAX) fail("more messages than expected");
  struct message *message = &client->messages[client->count++];
  snprintf(message->topic, sizeof message->topic, "%s", got->topic);
  snprintf(message->payload, sizeof message->payload, "%.*s", got->payloadlen, (char *)got->payload);
  message->qos = got->qos;
  message->retain = got->retain;
}

/* Lets all clients work until `*counter` is at least `wanted`. */
static void until(const int *counter, int wanted, const char *what) {
  time_t end = time(NULL) + LONG_S;
  while (*counter < wanted) {
    if (time(NULL) > end) fail("%s never came: %d of %d", what, *counter, wanted);
    for (int i = 0; i < clients_count; i++)
      if (!clients[i]->left) mosquitto_loop(clients[i]->mosq, 5, 1);
  }
}

static struct client *create(const char *id, bool clean) {
  struct client *client = calloc(1, sizeof *client);
  client->mosq = mosquitto_new(id, clean, client);
  mosquitto_int_option(client->mosq, MOSQ_OPT_PROTOCOL_VERSION, version);
  mosquitto_connect_v5_callback_set(client->mosq, on_connect);
  mosquitto_disconnect_callback_set(client->mosq, on_disconnect);
  mosquitto_publish_callback_set(client->mosq, on_publish);
  mosquitto_subscribe_callback_set(client->mosq, on_subscribe);
  mosquitto_message_callback_set(client->mosq, on_message);
  clients[clients_count++] = client;
  return client;
}

static void join(struct client *client, int expiry_s, int receive_maximum) {
  mosquitto_property *properties = NULL;
  if (version == MQTT_PROTOCOL_V5) {
    if (expiry_s > 0) mosquitto_property_add_int32(&properties, MQTT_PROP_SESSION_EXPIRY_INTERVAL, expiry_s);
    if (receive_maximum > 0) mosquitto_property_add_int16(&properties, MQTT_PROP_RECEIVE_MAXIMUM, receive_maximum);
  }
  int code = mosquitto_connect_bind_v5(client->mosq, "127.0.0.1", port, 60, NULL, properties);
  if (code != MOSQ_ERR_SUCCESS) fail("connect: %s", mosquitto_strerror(code));
  mosquitto_property_free_all(&properties);
  time_t end = time(NULL) + LONG_S;
  while (!client->connected && time(NULL) < end) mosquitto_loop(client->mosq, 5, 1);
  expect(client->connected && client->code == 0, "CONNACK");
}

static struct client *connected(const char *id) {
  struct client *client = create(id, true);
  join(client, 0, 0);
  return client;
}

static void leave(struct client *client) {
  mosquitto_disconnect(client->mosq);
  time_t end = time(NULL) + LONG_S;
  while (!client->left && time(NULL) < end) mosquitto_loop(client->mosq, 5, 1);
  for (int i = 0; i < clients_count; i++)
    if (clients[i] == client) clients[i] = clients[--clients_count];
  mosquitto_destroy(client->mosq);
  free(client);
}

static void subscribe(struct client *client, const char *filter, int qos) {
  int before = client->subscribed;
  expect(mosquitto_subscribe(client->mosq, NULL, filter, qos) == MOSQ_ERR_SUCCESS, "subscribe");
  until(&client->subscribed, before + 1, "SUBACK");
  expect(client->granted == qos, "the QoS that was granted");
}

/* Waits for the acknowledgement. */
static void publish(struct client *client, const char *topic, const char *payload, int qos, bool retain) {
  int before = client->published;
  int bytes = payload == NULL ? 0 : (int)strlen(payload);
  expect(mosquitto_publish(client->mosq, NULL, topic, bytes, payload, qos, retain) == MOSQ_ERR_SUCCESS, "publish");
  until(&client->published, before + 1, "the acknowledgement");
}

static struct message *next(struct client *client) {
  until(&client->count, client->taken + 1, "a message");
  return &client->messages[client->taken++];
}

static void every_qos(void) {
  struct client *client = connected("qos");
  subscribe(client, "q/#", 2);
  for (int qos = 0; qos < 3; qos++) {
    char topic[8] = "q/0";
    topic[2] += qos;
    publish(client, topic, "payload", qos, false);
    struct message *message = next(client);
    expect(!strcmp(message->topic, topic) && message->qos == qos && !message->retain, topic);
  }
  leave(client);
  puts("qos 0 1 2");
}

static void retained(void) {
  struct client *client = connected("retained");
  publish(client, "r/x", "kept", 1, true);
  subscribe(client, "r/#", 1);
  struct message *message = next(client);
  expect(!strcmp(message->payload, "kept") && message->retain, "the retained message");
  publish(client, "r/x", NULL, 1, true);
  expect(!strcmp(next(client)->payload, ""), "the empty message");
  struct client *late = connected("late");
  subscribe(late, "r/#", 1);
  publish(late, "r/end", "end", 1, false);
  expect(!strcmp(next(late)->payload, "end"), "nothing is retained any more");
  leave(client);
  leave(late);
  puts("retained, and cleared");
}

static void session(void) {
  struct client *first = create("session", false);
  join(first, 3600, 0);
  subscribe(first, "s", 2);
  leave(first);
  struct client *publisher = connected("publisher");
  char number[8];
  for (int i = 0; i < 50; i++) {
    snprintf(number, sizeof number, "%d", i);
    publish(publisher, "s", number, 2, false);
  }
  leave(publisher);
  struct client *again = create("session", false);
  join(again, 3600, 0);
  if (version != MQTT_PROTOCOL_V31) expect(again->session_present, "Session Present");
  for (int i = 0; i < 50; i++) {
    snprintf(number, sizeof number, "%d", i);
    expect(!strcmp(next(again)->payload, number), "the order of what was queued");
  }
  leave(again);
  puts("session kept, in order");
}

static void will(void) {
  struct client *watcher = connected("watcher");
  subscribe(watcher, "w", 1);
  struct client *doomed = create("doomed", true);
  mosquitto_will_set(doomed->mosq, "w", 4, "gone", 1, false);
  join(doomed, 0, 0);
  shutdown(mosquitto_socket(doomed->mosq), SHUT_RDWR);
  expect(!strcmp(next(watcher)->payload, "gone"), "the Will");
  leave(watcher);
  puts("will");
}

static void shared(void) {
  struct client *one = connected("one"), *other = connected("other"), *publisher = connected("publisher");
  subscribe(one, "$share/g/jobs", 1);
  subscribe(other, "$share/g/jobs", 1);
  for (int i = 0; i < 20; i++) publish(publisher, "jobs", "job", 1, false);
  int both = 0;
  time_t end = time(NULL) + LONG_S;
  while (both < 20 && time(NULL) < end) {
    for (int i = 0; i < clients_count; i++) mosquitto_loop(clients[i]->mosq, 5, 1);
    both = one->count + other->count;
  }
  expect(both == 20 && one->count > 0 && other->count > 0, "the jobs are shared");
  leave(one), leave(other), leave(publisher);
  puts("shared subscription");
}

/* More messages at once than may be in flight either way: all of them arrive, in order. */
static void flow_control(void) {
  struct client *sink = create("sink", true), *source = connected("source");
  if (version == MQTT_PROTOCOL_V5) mosquitto_int_option(sink->mosq, MOSQ_OPT_RECEIVE_MAXIMUM, 3);
  join(sink, 0, 3);
  subscribe(sink, "f", 2);
  char number[8];
  for (int i = 0; i < 500; i++) {
    snprintf(number, sizeof number, "%d", i);
    mosquitto_publish(source->mosq, NULL, "f", (int)strlen(number), number, 2, false);
  }
  for (int i = 0; i < 500; i++) {
    snprintf(number, sizeof number, "%d", i);
    expect(!strcmp(next(sink)->payload, number), "the order of the flood");
  }
  until(&source->published, 500, "the acknowledgements");
  leave(sink), leave(source);
  puts("flow control at qos 2");
}

static void aliases(void) {
  struct client *client = connected("aliases");
  expect(client->topic_alias_maximum > 0, "Topic Alias Maximum");
  subscribe(client, "alias/long/name", 1);
  mosquitto_property *properties = NULL;
  mosquitto_property_add_int16(&properties, MQTT_PROP_TOPIC_ALIAS, client->topic_alias_maximum);
  for (int i = 0; i < 3; i++) {
    const char *topic = i == 0 ? "alias/long/name" : NULL;
    int code = mosquitto_publish_v5(client->mosq, NULL, topic, 1, "x", 1, false, properties);
    expect(code == MOSQ_ERR_SUCCESS, "publish by alias");
    expect(!strcmp(next(client)->topic, "alias/long/name"), "the topic behind the alias");
  }
  mosquitto_property_free_all(&properties);
  leave(client);
  puts("topic alias");
}

int main(int count, char **words) {
  if (count != 3) fail("usage: %s 3.1|3.1.1|5.0 PORT", words[0]);
  version = !strcmp(words[1], "5.0")     ? MQTT_PROTOCOL_V5
            : !strcmp(words[1], "3.1.1") ? MQTT_PROTOCOL_V311
                                         : MQTT_PROTOCOL_V31;
  port = atoi(words[2]);
  mosquitto_lib_init();
  setvbuf(stdout, NULL, _IOLBF, 0);
  every_qos();
  retained();
  session();
  will();
  shared();
  flow_control();
  if (version == MQTT_PROTOCOL_V5) aliases();
  mosquitto_lib_cleanup();
  return 0;
}
