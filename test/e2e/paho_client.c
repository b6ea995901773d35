/*
 * Drives a broker with Eclipse Paho C; prints a line for each thing that works, and ends with 1 at the first that does
 * not.
 *
 *     paho_client 3.1|3.1.1|5.0 PORT
 */
#include <MQTTClient.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* After this many milliseconds something that should have come never will. */
#define LONG_MS 60000L

static int version;
static char address[64];

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

struct options {
  bool lasting;
  const char *will;
  int receive_maximum;
  /* What CONNACK said. */
  bool session_present;
  int topic_alias_maximum;
};

static MQTTClient connected(const char *id, struct options *options) {
  static struct options none;
  if (options == NULL) none = (struct options){0}, options = &none;
  MQTTClient client;
  MQTTClient_createOptions create = MQTTClient_createOptions_initializer;
  create.MQTTVersion = version == 5 ? MQTTVERSION_5 : MQTTVERSION_DEFAULT;
  expect(MQTTClient_createWithOptions(&client, address, id, MQTTCLIENT_PERSISTENCE_NONE, NULL, &create) == 0, "create");
  MQTTClient_connectOptions plain = MQTTClient_connectOptions_initializer;
  MQTTClient_connectOptions five = MQTTClient_connectOptions_initializer5;
  MQTTClient_connectOptions connect = version == 5 ? five : plain;
  MQTTClient_willOptions will = MQTTClient_willOptions_initializer;
  connect.MQTTVersion = version;
  connect.maxInflightMessages = 50;
  if (version == 5) connect.cleanstart = !options->lasting;
  else connect.cleansession = !options->lasting;
  if (options->will != NULL) {
    will.topicName = options->will;
    will.message = "gone";
    will.qos = 1;
    connect.will = &will;
  }
  if (version != 5) {
    int code = MQTTClient_connect(client, &connect);
    if (code != 0) fail("connect: %d", code);
    options->session_present = connect.returned.sessionPresent;
    return client;
  }
  MQTTProperties properties = MQTTProperties_initializer;
  MQTTProperty property = {0};
  if (options->lasting) {
    property.identifier = MQTTPROPERTY_CODE_SESSION_EXPIRY_INTERVAL;
    property.value.integer4 = 3600;
    MQTTProperties_add(&properties, &property);
  }
  if (options->receive_maximum > 0) {
    property.identifier = MQTTPROPERTY_CODE_RECEIVE_MAXIMUM;
    property.value.integer2 = options->receive_maximum;
    MQTTProperties_add(&properties, &property);
  }
  MQTTResponse response = MQTTClient_connect5(client, &connect, &properties, NULL);
  if (response.reasonCode != MQTTREASONCODE_SUCCESS) fail("connect: %d", response.reasonCode);
  options->session_present = connect.returned.sessionPresent;
  if (response.properties != NULL) {
    int maximum = MQTTProperties_getNumericValue(response.properties, MQTTPROPERTY_CODE_TOPIC_ALIAS_MAXIMUM);
    options->topic_alias_maximum = maximum;
  }
  MQTTResponse_free(response);
  MQTTProperties_free(&properties);
  return client;
}

static void leave(MQTTClient client) {
  if (version == 5) MQTTClient_disconnect5(client, LONG_MS, MQTTREASONCODE_SUCCESS, NULL);
  else MQTTClient_disconnect(client, LONG_MS);
  MQTTClient_destroy(&client);
}

static void subscribe(MQTTClient client, const char *filter, int qos) {
  if (version != 5) {
    expect(MQTTClient_subscribe(client, filter, qos) == 0, "SUBACK");
    return;
  }
  MQTTResponse response = MQTTClient_subscribe5(client, filter, qos, NULL, NULL);
  expect((int)response.reasonCode == qos, "SUBACK");
  MQTTResponse_free(response);
}

static MQTTClient_deliveryToken publish(MQTTClient client, const char *topic, const char *payload, int qos, bool retain,
                                        MQTTProperties *properties) {
  MQTTClient_deliveryToken token = 0;
  MQTTClient_message message = MQTTClient_message_initializer;
  message.payload = (char *)payload;
  message.payloadlen = (int)strlen(payload);
  message.qos = qos;
  message.retained = retain;
  if (version != 5) {
    expect(MQTTClient_publishMessage(client, topic, &message, &token) == 0, "publish");
    return token;
  }
  if (properties != NULL) message.properties = *properties;
  MQTTResponse response = MQTTClient_publishMessage5(client, topic, &message, &token);
  expect(response.reasonCode == MQTTREASONCODE_SUCCESS, "publish");
  MQTTResponse_free(response);
  return token;
}

static void publish_and_wait(MQTTClient client, const char *topic, const char *payload, int qos, bool retain) {
  MQTTClient_deliveryToken token = publish(client, topic, payload, qos, retain, NULL);
  if (qos > 0) expect(MQTTClient_waitForCompletion(client, token, LONG_MS) == 0, "the acknowledgement");
}

/* The next message has this topic, payload, QoS (-1: any) and RETAIN. */
static void expect_next(MQTTClient client, const char *topic, const char *payload, int qos, bool retain) {
  char *name = NULL;
  int bytes;
  MQTTClient_message *message = NULL;
  MQTTClient_receive(client, &name, &bytes, &message, LONG_MS);
  if (message == NULL) fail("nothing came to %s", topic);
  expect(!strcmp(name, topic), topic);
  bool same = message->payloadlen == (int)strlen(payload) && !memcmp(message->payload, payload, message->payloadlen);
  if (!same) fail("%s: %.*s instead of %s", topic, message->payloadlen, (char *)message->payload, payload);
  expect(qos == -1 || message->qos == qos, "QoS");
  expect(!!message->retained == retain, "RETAIN");
  MQTTClient_freeMessage(&message);
  MQTTClient_free(name);
}

static void every_qos(void) {
  MQTTClient client = connected("qos", NULL);
  subscribe(client, "q/#", 2);
  const char *topics[] = {"q/0", "q/1", "q/2"};
  for (int qos = 0; qos < 3; qos++) {
    publish_and_wait(client, topics[qos], "payload", qos, false);
    expect_next(client, topics[qos], "payload", qos, false);
  }
  leave(client);
  puts("qos 0 1 2");
}

static void retained(void) {
  MQTTClient client = connected("retained", NULL);
  publish_and_wait(client, "r/x", "kept", 1, true);
  subscribe(client, "r/#", 1);
  expect_next(client, "r/x", "kept", 1, true);
  publish_and_wait(client, "r/x", "", 1, true);
  expect_next(client, "r/x", "", 1, false);
  leave(client);
  MQTTClient late = connected("late", NULL);
  subscribe(late, "r/#", 1);
  publish_and_wait(late, "r/end", "end", 1, false);
  expect_next(late, "r/end", "end", 1, false);
  leave(late);
  puts("retained, and cleared");
}

static void session(void) {
  struct options options = {.lasting = true};
  MQTTClient first = connected("session", &options);
  subscribe(first, "s", 2);
  leave(first);
  MQTTClient publisher = connected("publisher", NULL);
  char number[8];
  for (int i = 0; i < 50; i++) {
    snprintf(number, sizeof number, "%d", i);
    publish_and_wait(publisher, "s", number, 2, false);
  }
  leave(publisher);
  MQTTClient again = connected("session", &options);
  /* Version 1.3.11 tells of it for 3.1.1 only. */
  if (version == MQTTVERSION_3_1_1) expect(options.session_present, "Session Present");
  for (int i = 0; i < 50; i++) {
    snprintf(number, sizeof number, "%d", i);
    expect_next(again, "s", number, 2, false);
  }
  leave(again);
  puts("session kept, in order");
}

static void will(void) {
  int ready[2];
  expect(pipe(ready) == 0, "pipe");
  pid_t child = fork();
  if (child == 0) {
    char byte;
    struct options options = {.will = "will"};
    connected("doomed", &options);
    if (read(ready[0], &byte, 1) != 1) _exit(1);
    _exit(0); /* without DISCONNECT */
  }
  MQTTClient watcher = connected("watcher", NULL);
  subscribe(watcher, "will", 1);
  expect(write(ready[1], "x", 1) == 1, "write");
  expect_next(watcher, "will", "gone", 1, false);
  int status;
  expect(waitpid(child, &status, 0) == child && status == 0, "the child");
  leave(watcher);
  puts("will");
}

static void shared(void) {
  MQTTClient one = connected("one", NULL), other = connected("other", NULL), publisher = connected("source", NULL);
  subscribe(one, "$share/g/jobs", 1);
  subscribe(other, "$share/g/jobs", 1);
  for (int i = 0; i < 20; i++) publish_and_wait(publisher, "jobs", "job", 1, false);
  for (int i = 0; i < 10; i++) expect_next(one, "jobs", "job", 1, false);
  for (int i = 0; i < 10; i++) expect_next(other, "jobs", "job", 1, false);
  leave(one), leave(other), leave(publisher);
  puts("shared subscription");
}

/* More messages at once than may be in flight either way: all of them arrive, in order. */
static void flow_control(void) {
  struct options options = {.receive_maximum = 3};
  MQTTClient sink = connected("sink", &options), source = connected("source", NULL);
  subscribe(sink, "f", 2);
  char number[8];
  MQTTClient_deliveryToken last = 0;
  for (int i = 0; i < 300; i++) {
    snprintf(number, sizeof number, "%d", i);
    last = publish(source, "f", number, 2, false, NULL);
  }
  for (int i = 0; i < 300; i++) {
    snprintf(number, sizeof number, "%d", i);
    expect_next(sink, "f", number, 2, false);
  }
  expect(MQTTClient_waitForCompletion(source, last, LONG_MS) == 0, "the last acknowledgement");
  leave(sink), leave(source);
  puts("flow control at qos 2");
}

static void aliases(void) {
  struct options options = {0};
  MQTTClient client = connected("aliases", &options);
  expect(options.topic_alias_maximum > 0, "Topic Alias Maximum");
  subscribe(client, "alias/long/name", 1);
  MQTTProperties properties = MQTTProperties_initializer;
  MQTTProperty alias = {.identifier = MQTTPROPERTY_CODE_TOPIC_ALIAS};
  alias.value.integer2 = options.topic_alias_maximum;
  MQTTProperties_add(&properties, &alias);
  for (int i = 0; i < 3; i++) {
    publish(client, i == 0 ? "alias/long/name" : "", "x", 1, false, &properties);
    expect_next(client, "alias/long/name", "x", 1, false);
  }
  MQTTProperties_free(&properties);
  leave(client);
  puts("topic alias");
}

int main(int count, char **words) {
  if (count != 3) fail("usage: %s 3.1|3.1.1|5.0 PORT", words[0]);
  version = !strcmp(words[1], "5.0")     ? MQTTVERSION_5
            : !strcmp(words[1], "3.1.1") ? MQTTVERSION_3_1_1
                                         : MQTTVERSION_3_1;
  snprintf(address, sizeof address, "tcp://127.0.0.1:%s", words[2]);
  setvbuf(stdout, NULL, _IOLBF, 0);
  will(); /* first: it forks, and the library has threads afterwards */
  every_qos();
  retained();
  session();
  shared();
  flow_control();
  if (version == MQTTVERSION_5) aliases();
  return 0;
}
