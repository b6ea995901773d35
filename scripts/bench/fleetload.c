/*
 * fleetload - a fleet of MQTT devices: many connections, few messages each, at random times.
 *
 *     cc -O2 -o fleetload fleetload.c -lm
 *     ./fleetload --port 1883 --pid $(pidof broker)
 *
 * Devices of MQTT 3.1.1 and 5.0 publish one message a segment at QoS 0, 1 and 2, some of them retained states.
 * An archive with a kept Session takes everything. Dashboards take a site or all states through wildcards.
 * Sleepers come for what was queued for them. A controller sends commands. Devices come and go, half of them
 * without a DISCONNECT, so that their Will is published. Each run prints one line of JSON; README.md explains
 * the fields.
 *
 * How it is laid out:
 *   options, clients and what they subscribe to
 *   packets out         CONNECT, SUBSCRIBE, PUBLISH
 *   verification        every payload names its device, stream and sequence number
 *   packets in
 *   events in time      publishing, commands, churn, sleepers
 *   measuring, main
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include "bytes.h"
#include "report.h"
#include "usage.h"

/* ------------------------------------------------------------------ options */

static struct {
    int port;
    long pid;                /* the broker's process; 0: do not measure it */
    double devices, sites, boards, sleepers, sleeper_devices, opening;
    double rate, commands, churn, warmup, secs, timeout, plain;
} opt = {.port = 1883, .devices = 2000, .sites = 20, .boards = 3, .sleepers = 100, .sleeper_devices = 7,
         .opening = 64, .rate = 3900, .commands = 100, .churn = 1.5, .warmup = 5, .secs = 20, .timeout = 60};

static void die(const char *fmt, ...) {
    va_list ap;
    char text[512];
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    printf("{\"error\":\"%s\"}\n", text);
    exit(1);
}

#define PAYLOAD 64u
#define AWAY_NS 1000000000ull        /* a device that left comes back after so long */
#define SLEEP_NS 3000000000ull       /* a sleeper is away for so long, */
#define WAKE_NS 1000000000ull        /* and there for so long */
#define QUIET_NS 3500000000ull        /* nothing comes any more: more than a sleeper is away */
#define IN_FLIGHT 64u                /* unacknowledged messages of one publisher, at most */

/* The streams of a device: each has a topic, so that order can be asked of it. */
enum stream { TELEMETRY_0, TELEMETRY_1, TELEMETRY_2, STATE, COMMAND, STATUS, STREAMS };
static const char *const stream_names[] = {"t0", "t1", "t2", "state", "cmd", "status"};
static const int stream_qos[] = {0, 1, 2, 1, 1, 1};
/* Shares of what devices publish, in percent, in the order of the streams. */
static const unsigned stream_share[] = {45, 33, 4, 18};
#define CHECKED 5u                   /* a status is a text, and only counted */

/* ------------------------------------------------------------------ clients */

enum kind { ARCHIVE, SITE, BOARD, SLEEPER, CONTROLLER, DEVICE };
enum state { CLOSED, CONNECTING, WAIT_CONNACK, WAIT_SUBACK, READY, LEAVING };

struct in_flight { uint16_t pid; uint8_t stream; uint32_t device, seq; uint64_t stamp; };

/* What arrived of one stream of one device at one receiver. */
struct lane { uint64_t *bits; uint32_t words, next; };

struct client {
    int fd;
    enum kind kind;
    uint32_t index;          /* within its kind */
    int version;
    enum state state;
    bool kept;               /* its Session outlives the connection */
    bool subscribed;         /* in a Session that is kept */
    bool on_flush, awaits_write;
    uint16_t pid;
    struct { uint8_t *p; size_t len, cap; } in, out;
    struct in_flight *flight;
    uint32_t flying;
    struct lane *lanes;      /* of a receiver: by the device's place among those it watches, and stream */
};

static struct client *clients, *devices;
static uint32_t nclients, ndevices;
static struct client **flush_list;
static uint32_t nflush;
static int ep;

/* What each device sent of each stream, and what of it was acknowledged. */
struct sent { uint32_t seq; struct lane acked; };
static struct sent *sent_of; /* by device and stream */

static struct {
    uint32_t opening, ready;
    uint64_t now, in, out, connects, wills_due, wills, disconnects, refused, nacks, sub_failures;
    uint64_t dup, ooo, alien, given_up, late_ns;
    bool sampling, publishing;
} g;

static uint64_t *acks_ns, *arrivals_ns;
static size_t nacks_ns, narrivals_ns, acks_cap, arrivals_cap;

static void sample(uint64_t **list, size_t *n, size_t *cap, uint64_t ns) {
    if (*n == *cap) *list = xrealloc(*list, (*cap = *cap ? *cap * 2 : 65536) * sizeof **list);
    (*list)[(*n)++] = ns;
}

static uint32_t site_of(uint32_t device) { return device % (uint32_t)opt.sites; }

/* The place of a device among those that a receiver watches, or -1. */
static int64_t place_of(const struct client *c, uint32_t device) {
    switch (c->kind) {
    case ARCHIVE: case BOARD: return device;
    case SITE: return site_of(device) == c->index ? (int64_t)(device / (uint32_t)opt.sites) : -1;
    case SLEEPER: {
        uint32_t first = c->index * (uint32_t)opt.sleeper_devices;
        bool watches = device >= first && device < first + (uint32_t)opt.sleeper_devices;
        return watches ? (int64_t)device - first : -1;
    }
    case DEVICE: return device == c->index ? 0 : -1;
    default: return -1;
    }
}
static uint32_t places(const struct client *c) {
    switch (c->kind) {
    case ARCHIVE: case BOARD: return ndevices;
    case SITE: return ndevices / (uint32_t)opt.sites + 1;
    case SLEEPER: return (uint32_t)opt.sleeper_devices;
    case DEVICE: return 1;
    default: return 0;
    }
}
static bool takes(const struct client *c, enum stream s) {
    switch (c->kind) {
    case ARCHIVE: case SITE: return true;
    case BOARD: case SLEEPER: return s == STATE;
    case DEVICE: return s == COMMAND;
    default: return false;
    }
}
/* A Session that ends with its connection misses what comes meanwhile. */
static bool misses_nothing(const struct client *c) { return c->kind != DEVICE || c->kept; }

static struct lane *lane_of(struct client *c, uint32_t device, enum stream s) {
    int64_t place = place_of(c, device);
    if (place < 0 || !takes(c, s)) return NULL;
    if (!c->lanes) c->lanes = xcalloc((size_t)places(c) * CHECKED, sizeof *c->lanes);
    return &c->lanes[(size_t)place * CHECKED + s];
}

static bool mark(struct lane *lane, uint32_t seq) { /* false where it was marked before */
    uint32_t w = seq / 64;
    if (w >= lane->words) {
        uint32_t words = w + 4 > lane->words * 2 ? w + 4 : lane->words * 2;
        lane->bits = xrealloc(lane->bits, words * sizeof *lane->bits);
        memset(lane->bits + lane->words, 0, (words - lane->words) * sizeof *lane->bits);
        lane->words = words;
    }
    uint64_t bit = 1ull << seq % 64;
    if (lane->bits[w] & bit) return false;
    lane->bits[w] |= bit;
    return true;
}

/* -------------------------------------------------------------- connections */

static uint8_t *reserve(struct client *c, size_t n) {
    if (c->out.len + n > c->out.cap) {
        while (c->out.cap < c->out.len + n) c->out.cap = c->out.cap ? c->out.cap * 2 : 256;
        c->out.p = xrealloc(c->out.p, c->out.cap);
    }
    return c->out.p + c->out.len;
}
static void sent_to(struct client *c, const uint8_t *end) {
    c->out.len = (size_t)(end - c->out.p);
    if (!c->on_flush) { c->on_flush = true; flush_list[nflush++] = c; }
}

static void await_write(struct client *c, bool wanted) {
    if (c->awaits_write == wanted) return;
    c->awaits_write = wanted;
    struct epoll_event ev = {.events = EPOLLIN | (wanted ? EPOLLOUT : 0u), .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &ev);
}

static void closed(struct client *c) {
    if (c->state == CLOSED) return;
    if (c->state == READY) g.ready--;
    else if (c->state != LEAVING) g.opening--;
    close(c->fd);
    c->fd = -1;
    c->state = CLOSED;
    c->in.len = c->out.len = 0;
    c->flying = 0; /* nobody knows whether they were taken */
    c->awaits_write = false;
}
static void lost(struct client *c) {
    if (c->state != LEAVING) g.disconnects++;
    closed(c);
}

static void flush(struct client *c) {
    size_t off = 0;
    while (c->state > CONNECTING && off < c->out.len) {
        ssize_t n = send(c->fd, c->out.p + off, c->out.len - off, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) break;
        if (n < 0) { lost(c); return; }
        off += (size_t)n;
    }
    memmove(c->out.p, c->out.p + off, c->out.len - off);
    c->out.len -= off;
    if (c->state > CONNECTING) await_write(c, c->out.len > 0);
}
static void flush_all(void) {
    for (uint32_t i = 0; i < nflush; i++) {
        flush_list[i]->on_flush = false;
        flush(flush_list[i]);
    }
    nflush = 0;
}

static void open_connection(struct client *c) {
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket: %s", strerror(errno));
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    struct sockaddr_in a = {.sin_family = AF_INET};
    /* Ports of those who left stay taken for a minute, so each kind of client and version has an address. */
    a.sin_addr.s_addr = htonl(0x7f000000u | (2u + (unsigned)c->kind) << 8 | (1u + c->index % 8u));
    if (bind(c->fd, (struct sockaddr *)&a, sizeof a)) die("bind: %s", strerror(errno));
    a.sin_port = htons((uint16_t)opt.port);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(c->fd, (struct sockaddr *)&a, sizeof a) && errno != EINPROGRESS)
        die("connect: %s", strerror(errno));
    c->state = CONNECTING;
    c->awaits_write = true;
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &ev);
    g.opening++;
}

/* ------------------------------------------------------------- packets out */

static int topic_of(uint32_t device, enum stream s, char *dst, size_t n) {
    return snprintf(dst, n, "fleet/%u/%u/%s", site_of(device), device, stream_names[s]);
}

static int filter_of(const struct client *c, uint32_t i, char *dst, size_t n) {
    switch (c->kind) {
    case ARCHIVE: return snprintf(dst, n, "fleet/#");
    case SITE: return snprintf(dst, n, "fleet/%u/#", c->index);
    case BOARD: return snprintf(dst, n, "fleet/+/+/state");
    case SLEEPER: return topic_of(c->index * (uint32_t)opt.sleeper_devices + i, STATE, dst, n);
    default: return topic_of(c->index, COMMAND, dst, n);
    }
}
static uint32_t filters_of(const struct client *c) {
    return c->kind == SLEEPER ? (uint32_t)opt.sleeper_devices : c->kind == CONTROLLER ? 0 : 1;
}

static uint8_t *put_header(struct client *c, unsigned first, uint32_t rest) {
    uint8_t *p = reserve(c, 1 + varint_size(rest) + rest);
    *p++ = (uint8_t)first;
    return put_varint(p, rest);
}

static void send_connect(struct client *c) {
    static const char *const names[] = {"archive", "site", "board", "sleeper", "controller", "device"};
    char id[48], will[64];
    size_t id_len = (size_t)snprintf(id, sizeof id, "fleet-%s-%u", names[c->kind], c->index);
    bool has_will = c->kind == DEVICE && opt.plain == 0, is_5 = c->version == 5, expires = is_5 && c->kept;
    size_t will_len = has_will ? (size_t)topic_of(c->index, STATUS, will, sizeof will) : 0;
    uint32_t rest = (uint32_t)(10 + 2 + id_len + (is_5 ? 1 + (expires ? 5 : 0) : 0) +
                               (has_will ? (is_5 ? 1 : 0) + 2 + will_len + 2 + 7 : 0));
    uint8_t *p = put_header(c, P_CONNECT << 4, rest);
    p = put_text(p, "MQTT", 4);
    *p++ = (uint8_t)c->version;
    *p++ = (uint8_t)((c->kept ? 0 : 2) | (has_will ? 0x04 | 0x08 | 0x20 : 0)); /* a Will at QoS 1, retained */
    p = put16(p, 600);
    if (is_5) {
        *p++ = expires ? 5 : 0;
        if (expires) { *p++ = 0x11; p = put16(p, 0); p = put16(p, 3600); }
    }
    p = put_text(p, id, id_len);
    if (has_will) {
        if (is_5) *p++ = 0;
        p = put_text(p, will, will_len);
        p = put_text(p, "offline", 7);
    }
    sent_to(c, p);
}

static void send_subscribe(struct client *c) {
    char text[64];
    uint32_t n = filters_of(c), rest = 2 + (c->version == 5);
    for (uint32_t i = 0; i < n; i++) rest += 3 + (uint32_t)filter_of(c, i, text, sizeof text);
    uint8_t *p = put_header(c, P_SUBSCRIBE << 4 | 2, rest);
    p = put16(p, 1);
    if (c->version == 5) *p++ = 0;
    for (uint32_t i = 0; i < n; i++) {
        p = put_text(p, text, (size_t)filter_of(c, i, text, sizeof text));
        *p++ = c->kind == ARCHIVE ? 2 : 1;
    }
    sent_to(c, p);
}

static void send_ack(struct client *c, unsigned first, unsigned pid) {
    sent_to(c, put16(put_header(c, first, 2), pid));
}

static void publish(struct client *c, uint32_t device, enum stream s, const void *payload, uint32_t len,
                    uint32_t seq) {
    char topic[64];
    size_t n = (size_t)topic_of(device, s, topic, sizeof topic);
    int qos = stream_qos[s];
    bool retain = s == STATE || s == STATUS;
    uint32_t rest = (uint32_t)(2 + n + (qos ? 2 : 0) + (c->version == 5) + len);
    uint8_t *p = put_header(c, (unsigned)(P_PUBLISH << 4 | qos << 1 | retain), rest);
    p = put_text(p, topic, n);
    if (qos) {
        if (!++c->pid) c->pid = 1;
        p = put16(p, c->pid);
        if (!c->flight) c->flight = xcalloc(IN_FLIGHT, sizeof *c->flight);
        c->flight[c->flying++] = (struct in_flight){c->pid, (uint8_t)s, device, seq, g.now};
    } else {
        g.in++;
    }
    if (c->version == 5) *p++ = 0;
    memcpy(p, payload, len);
    sent_to(c, p + len);
}

/* The next message of a stream. A publisher that is not answered waits, and the message is not sent. */
static void publish_next(struct client *c, uint32_t device, enum stream s) {
    if (c->flying == IN_FLIGHT) { g.given_up++; return; }
    uint8_t payload[PAYLOAD];
    struct sent *sent = &sent_of[device * CHECKED + s];
    memset(payload, 'a' + (int)s, sizeof payload);
    memcpy(payload, &device, 4);
    payload[4] = (uint8_t)s;
    memcpy(payload + 8, &sent->seq, 4);
    uint64_t stamp = g.sampling ? g.now : 0;
    memcpy(payload + 16, &stamp, 8);
    publish(c, device, s, payload, sizeof payload, sent->seq++);
}

/* ------------------------------------------------------------- verification */

static void delivered(struct client *c, const uint8_t *payload, uint32_t len, bool retained) {
    if (c->state == LEAVING) return; /* unacknowledged, so it will be sent again */
    g.out++;
    if (len == 7 && !memcmp(payload, "offline", 7)) {
        g.wills += c->kind == ARCHIVE && !retained;
        return;
    }
    if (len == 6 && !memcmp(payload, "online", 6)) return;
    uint32_t device, seq;
    uint64_t stamp;
    if (len != PAYLOAD) { g.alien++; return; }
    memcpy(&device, payload, 4);
    memcpy(&seq, payload + 8, 4);
    memcpy(&stamp, payload + 16, 8);
    enum stream s = payload[4];
    struct lane *lane = device < ndevices && s < CHECKED ? lane_of(c, device, s) : NULL;
    if (!lane || seq >= sent_of[device * CHECKED + s].seq) { g.alien++; return; }
    if (retained) return; /* of before its Subscription */
    /* A device that vanished may not have been heard when it acknowledged. */
    bool is_fault = c->kind != DEVICE;
    if (!mark(lane, seq)) { g.dup += is_fault; return; }
    if (seq < lane->next) g.ooo += is_fault;
    else lane->next = seq + 1;
    if (stamp && c->kind == SITE) sample(&arrivals_ns, &narrivals_ns, &arrivals_cap, g.now - stamp);
}

static void acknowledged(struct client *c, unsigned pid, bool failed, bool is_first) {
    for (uint32_t i = 0; i < c->flying; i++) {
        struct in_flight *f = &c->flight[i];
        if (f->pid != pid) continue;
        if (is_first && g.sampling) sample(&acks_ns, &nacks_ns, &acks_cap, g.now - f->stamp);
        if (is_first && !failed && stream_qos[f->stream] == 2) return; /* PUBCOMP will come */
        if (failed) g.nacks++;
        else if (f->stream < CHECKED) mark(&sent_of[f->device * CHECKED + f->stream].acked, f->seq);
        g.in++;
        memmove(f, f + 1, (--c->flying - i) * sizeof *f);
        return;
    }
}

/* Acknowledged messages that did not come to those who were to get them. */
static uint64_t count_lost(void) {
    uint64_t n = 0;
    for (uint32_t k = 0; k < nclients; k++) {
        struct client *c = &clients[k];
        if (!misses_nothing(c) || c->kind == CONTROLLER) continue;
        for (uint32_t d = 0; d < ndevices; d++)
            for (unsigned s = 0; s < CHECKED; s++) {
                struct lane *acked = &sent_of[d * CHECKED + s].acked, *got = lane_of(c, d, s);
                if (!got) continue;
                for (uint32_t w = 0; w < acked->words; w++) {
                    uint64_t missing = acked->bits[w] & ~(w < got->words ? got->bits[w] : 0);
                    n += (uint64_t)__builtin_popcountll(missing);
                }
            }
    }
    return n;
}

/* ---------------------------------------------------------------- packets in */

static void on_ready(struct client *c) {
    c->state = READY;
    c->subscribed = c->kept;
    g.ready++;
    g.opening--;
    g.connects++;
    if (c->kind == DEVICE) publish(c, c->index, STATUS, "online", 6, 0);
}

static void on_packet(struct client *c, uint8_t first, const uint8_t *b, uint32_t len) {
    unsigned pid = len >= 2 ? get16(b) : 0;
    bool failed = len > 2 && b[2] >= 0x80;
    switch (first >> 4) {
    case P_CONNACK:
        if (len < 2 || b[1]) { g.refused++; closed(c); return; }
        if (filters_of(c) && !(c->subscribed && b[0] & 1)) { c->state = WAIT_SUBACK; send_subscribe(c); }
        else on_ready(c);
        return;
    case P_SUBACK: {
        uint32_t off = 2, props;
        if (c->version == 5) off += (uint32_t)get_varint(b + 2, len - 2, &props) + props;
        for (; off < len; off++) if (b[off] >= 0x80) g.sub_failures++;
        on_ready(c);
        return;
    }
    case P_PUBLISH: {
        unsigned qos = first >> 1 & 3;
        uint32_t off = 2 + get16(b), props;
        if (qos) {
            pid = get16(b + off);
            off += 2;
            if (c->state != LEAVING) send_ack(c, qos == 1 ? P_PUBACK << 4 : P_PUBREC << 4, pid);
        }
        if (c->version == 5) off += (uint32_t)get_varint(b + off, len - off, &props) + props;
        if (off > len) { g.alien++; return; }
        delivered(c, b + off, len - off, first & 1);
        return;
    }
    case P_PUBACK: acknowledged(c, pid, failed, true); return;
    case P_PUBREC:
        acknowledged(c, pid, failed, true);
        if (!failed && c->state != LEAVING) send_ack(c, P_PUBREL << 4 | 2, pid);
        return;
    case P_PUBREL: if (c->state != LEAVING) send_ack(c, P_PUBCOMP << 4, pid); return;
    case P_PUBCOMP: acknowledged(c, pid, false, false); return;
    default: return;
    }
}

static void on_bytes(struct client *c, const uint8_t *p, size_t n) {
    if (c->in.len + n > c->in.cap) {
        while (c->in.cap < c->in.len + n) c->in.cap = c->in.cap ? c->in.cap * 2 : 1024;
        c->in.p = xrealloc(c->in.p, c->in.cap);
    }
    memcpy(c->in.p + c->in.len, p, n);
    c->in.len += n;
    size_t off = 0;
    while (c->in.len - off >= 2 && c->state != CLOSED) {
        uint32_t rest;
        int k = get_varint(c->in.p + off + 1, c->in.len - off - 1, &rest);
        if (k < 0) { lost(c); return; }
        if (k == 0 || c->in.len - off < 1u + (size_t)k + rest) break;
        on_packet(c, c->in.p[off], c->in.p + off + 1 + k, rest);
        off += 1 + (size_t)k + rest;
    }
    if (c->state == CLOSED) return;
    memmove(c->in.p, c->in.p + off, c->in.len - off);
    c->in.len -= off;
}

static void on_event(struct client *c, uint32_t events) {
    static uint8_t buffer[256 * 1024];
    if (c->state == CLOSED) return;
    if (c->state == CONNECTING) {
        int err = 0;
        socklen_t len = sizeof err;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &len);
        if (err) die("connect: %s", strerror(err));
        c->state = WAIT_CONNACK;
        send_connect(c);
        return;
    }
    if (events & EPOLLOUT) flush(c);
    if (c->state != CLOSED && events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) { lost(c); return; }
        on_bytes(c, buffer, (size_t)n);
    }
}

/* ------------------------------------------------------------ events in time */

/* Those who come back, in the order of their times: everybody of a queue is away for the same time. */
struct waiting { uint64_t at; struct client *c; };
struct queue { struct waiting *list; uint32_t head, tail, mask; };
static struct queue returns, sleeps, wakes;
static struct client **to_open; /* connections that wait for others to be opened */
static uint32_t nto_open;

static void queue_init(struct queue *q) {
    uint32_t size = 1;
    while (size < nclients + 1) size *= 2;
    q->list = xcalloc(size, sizeof *q->list);
    q->mask = size - 1;
}
static void queue_put(struct queue *q, struct client *c, uint64_t at) {
    q->list[q->tail++ & q->mask] = (struct waiting){at, c};
}
static struct client *queue_due(struct queue *q) {
    if (q->head == q->tail || q->list[q->head & q->mask].at > g.now) return NULL;
    return q->list[q->head++ & q->mask].c;
}

/* With DISCONNECT: what comes after it is not looked at, and the broker closes. */
static void leave(struct client *c) {
    uint8_t *p = put_header(c, P_DISCONNECT << 4, 0);
    sent_to(c, p);
    g.ready--;
    c->state = LEAVING;
}

static void churn_one(void) {
    struct client *c = &devices[rnd() % ndevices];
    if (c->state != READY) return;
    if (rnd() % 2) leave(c);
    else {
        g.wills_due++;
        closed(c);
    }
    queue_put(&returns, c, g.now + AWAY_NS);
}

static enum stream random_stream(void) {
    unsigned k = rnd() % 100, s = 0;
    while (k >= stream_share[s]) k -= stream_share[s++];
    return s;
}
static double until_next(double rate) { return -log((rnd() + 1.0) / 4294967297.0) / rate * 1e9; }

static void publish_one(void) {
    struct client *c = &devices[rnd() % ndevices];
    if (c->state == READY) publish_next(c, c->index, random_stream());
}
static struct client *controller;
static void command_one(void) { publish_next(controller, rnd() % ndevices, COMMAND); }

/* Events of a Poisson process each; so is what any single device does. */
static struct process { double next, rate; void (*happens)(void); } processes[3];

static void time_passes(void) {
    for (struct process *p = processes; g.publishing && p < processes + 3; p++) {
        while (p->rate > 0 && p->next <= (double)g.now) {
            uint64_t late = g.now - (uint64_t)p->next;
            if (g.sampling && late > g.late_ns) g.late_ns = late;
            p->happens();
            p->next += until_next(p->rate);
        }
    }
    struct client *c;
    while ((c = queue_due(&returns))) to_open[nto_open++] = c;
    while ((c = queue_due(&wakes))) {
        to_open[nto_open++] = c;
        queue_put(&sleeps, c, g.now + WAKE_NS);
    }
    while (g.publishing && (c = queue_due(&sleeps))) {
        if (c->state == READY) leave(c);
        queue_put(&wakes, c, g.now + SLEEP_NS);
    }
    uint32_t waiting = 0;
    for (uint32_t i = 0; i < nto_open; i++) {
        if (to_open[i]->state == CLOSED && g.opening < opt.opening) open_connection(to_open[i]);
        else if (to_open[i]->state == CLOSED || to_open[i]->state == LEAVING) to_open[waiting++] = to_open[i];
    }
    nto_open = waiting;
}

static uint64_t next_due(void) {
    double at = (double)g.now + 5e6;
    for (struct process *p = processes; g.publishing && p < processes + 3; p++)
        if (p->rate > 0 && p->next < at) at = p->next;
    return at > (double)g.now ? (uint64_t)at : g.now;
}

static void step(void) {
    static struct epoll_event ev[512];
    flush_all();
    g.now = now_ns();
    uint64_t wait = next_due() - g.now;
    struct timespec ts = {(time_t)(wait / 1000000000), (long)(wait % 1000000000)};
    int n = epoll_pwait2(ep, ev, 512, &ts, NULL);
    g.now = now_ns();
    for (int i = 0; i < n; i++) on_event(ev[i].data.ptr, ev[i].events);
    time_passes();
}
static void run_for(double secs) {
    uint64_t end = now_ns() + (uint64_t)(secs * 1e9);
    do step(); while (g.now < end);
}

/* ----------------------------------------------------------------- measuring */

struct snap { uint64_t t, in, out, connects, own_us; struct usage u; };
static struct snap snapshot(void) {
    struct snap s = {.in = g.in, .out = g.out, .connects = g.connects, .own_us = own_cpu_us()};
    s.u = broker_usage(opt.pid);
    s.t = now_ns();
    return s;
}

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}
static void report_samples(const char *name, uint64_t *list, size_t n) {
    static const struct { const char *name; double q; } places[] = {
        {"p50", 0.5}, {"p99", 0.99}, {"p999", 0.999}, {"max", 1}};
    char text[64];
    qsort(list, n, sizeof *list, by_value);
    for (size_t i = 0; i < 4; i++) {
        size_t k = (size_t)(places[i].q * (double)n);
        snprintf(text, sizeof text, "%s_%s_us", name, places[i].name);
        number(text, n ? (double)list[k < n ? k : n - 1] / 1000 : NAN);
    }
}

static void make_clients(void) {
    ndevices = (uint32_t)opt.devices;
    uint32_t counts[] = {1, (uint32_t)opt.sites, (uint32_t)opt.boards, (uint32_t)opt.sleepers, 1, ndevices};
    for (int k = ARCHIVE; k <= DEVICE; k++) nclients += counts[k];
    clients = xcalloc(nclients, sizeof *clients);
    flush_list = xcalloc(nclients, sizeof *flush_list);
    to_open = xcalloc(nclients * 2, sizeof *to_open);
    sent_of = xcalloc((size_t)ndevices * CHECKED, sizeof *sent_of);
    struct client *c = clients;
    for (int k = ARCHIVE; k <= DEVICE; k++)
        for (uint32_t i = 0; i < counts[k]; i++, c++) {
            c->kind = (enum kind)k;
            c->index = i;
            c->fd = -1;
            c->version = i % 2 ? 5 : 4;
            c->kept = k == ARCHIVE || k == SLEEPER || (k == DEVICE && i % 4 < 2);
            if (opt.plain > 0) { c->version = 4; c->kept = false; }
        }
    controller = &clients[nclients - ndevices - 1];
    devices = controller + 1;
    queue_init(&returns);
    queue_init(&sleeps);
    queue_init(&wakes);
}

static void connect_all(void) {
    for (uint32_t i = 0; i < nclients; i++) to_open[nto_open++] = &clients[i];
    uint64_t end = now_ns() + (uint64_t)(opt.timeout * 1e9);
    while (g.ready < nclients) {
        step();
        if (g.refused || g.disconnects)
            die("%s while connecting: %u of %u", g.refused ? "refused" : "closed", g.ready, nclients);
        if (g.now > end) die("only %u of %u connected in time", g.ready, nclients);
    }
}

/* Everybody stays, or comes back; ends when nothing comes any more. */
static void drain(void) {
    g.publishing = false;
    sleeps.head = sleeps.tail;
    for (uint64_t seen = 0, since = g.now; g.now - since < QUIET_NS;) {
        step();
        uint64_t all = g.out + g.in + g.connects;
        if (all != seen) since = g.now;
        seen = all;
    }
}

static const struct { const char *name; void *at; bool is_real; const char *help; } options[] = {
    {"port", &opt.port, false, "broker's port on 127.0.0.1 (1883)"},
    {"pid", &opt.pid, false, "broker's process: measure its CPU time and memory, with its descendants"},
    {"devices", &opt.devices, true, "devices, half of each version (2000)"},
    {"sites", &opt.sites, true, "sites, each with a dashboard (20)"},
    {"boards", &opt.boards, true, "dashboards of all states (3)"},
    {"sleepers", &opt.sleepers, true, "clients that are away for 3 s of 4 (100)"},
    {"rate", &opt.rate, true, "messages per second of all devices (3900)"},
    {"commands", &opt.commands, true, "commands per second (100)"},
    {"churn", &opt.churn, true, "percent of the devices that leave and come back, per second (1.5)"},
    {"plain", &opt.plain, true, "1: 3.1.1 only, no kept Sessions, no Wills, and nothing is checked (0)"},
    {"opening", &opt.opening, true, "connections opened at the same time (64)"},
    {"warmup", &opt.warmup, true, "seconds before measuring (5)"},
    {"secs", &opt.secs, true, "seconds measured (20)"},
    {"timeout", &opt.timeout, true, "seconds for connecting (60)"},
};

static void usage(void) {
    fprintf(stderr, "usage: fleetload [options]\n");
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        fprintf(stderr, "  --%-10s %s\n", options[i].name, options[i].help);
    exit(2);
}
static void parse(int argc, char **argv) {
    for (int i = 1; i < argc; i += 2) {
        size_t k = 0, n = sizeof options / sizeof *options;
        while (k < n && (strncmp(argv[i], "--", 2) || strcmp(options[k].name, argv[i] + 2))) k++;
        if (k == n || i + 1 == argc) usage();
        if (options[k].is_real) *(double *)options[k].at = atof(argv[i + 1]);
        else if (options[k].at == &opt.pid) opt.pid = atol(argv[i + 1]);
        else opt.port = atoi(argv[i + 1]);
    }
    if (opt.sleepers * opt.sleeper_devices > opt.devices)
        die("sleepers watch 7 devices each: too few devices");
}

int main(int argc, char **argv) {
    parse(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1ul);
    ep = epoll_create1(EPOLL_CLOEXEC);
    rng_state ^= now_ns() << 20;
    make_clients();
    struct snap before = snapshot();
    g.now = now_ns();
    connect_all();
    for (uint32_t i = 0; i < nclients; i++)
        if (clients[i].kind == SLEEPER)
            queue_put(&sleeps, &clients[i],
                      g.now + (uint64_t)(clients[i].index / opt.sleepers * (SLEEP_NS + WAKE_NS)));
    processes[0] = (struct process){(double)g.now, opt.rate, publish_one};
    processes[1] = (struct process){(double)g.now, opt.commands, command_one};
    processes[2] = (struct process){(double)g.now, opt.churn / 100 * opt.devices, churn_one};
    g.publishing = true;
    run_for(opt.warmup);
    g.sampling = true;
    struct snap a = snapshot();
    run_for(opt.secs);
    struct snap b = snapshot();
    g.sampling = false;
    uint64_t disconnects = g.disconnects;
    drain();
    double t = (double)(b.t - a.t) / 1e9, in = (double)(b.in - a.in), out = (double)(b.out - a.out);
    number("devices", opt.devices);
    number("secs", t);
    number("in_per_s", in / t);
    number("out_per_s", out / t);
    number("connects_per_s", (double)(b.connects - a.connects) / t);
    if (opt.pid) {
        number("cpu_us_per_msg", (double)(b.u.cpu_us - a.u.cpu_us) / (in + out));
        number("cpu_pct", (double)(b.u.cpu_us - a.u.cpu_us) / t / 1e4);
        number("reads_per_msg", (double)(b.u.reads - a.u.reads) / (in + out));
        number("writes_per_msg", (double)(b.u.writes - a.u.writes) / (in + out));
        number("rss_growth_kb", (double)b.u.rss_kb - (double)before.u.rss_kb);
    }
    number("gen_cpu_pct", (double)(b.own_us - a.own_us) / t / 1e4);
    number("gen_late_max_us", (double)g.late_ns / 1000);
    report_samples("ack", acks_ns, nacks_ns);
    report_samples("arrival", arrivals_ns, narrivals_ns);
    uint64_t missing = count_lost(), wills_missing = g.wills_due > g.wills ? g.wills_due - g.wills : 0;
    number("lost", (double)missing);
    number("dup", (double)g.dup);
    number("ooo", (double)g.ooo);
    number("alien", (double)g.alien);
    number("wills_due", (double)g.wills_due);
    number("wills_missing", (double)wills_missing);
    number("nacks", (double)g.nacks);
    number("given_up", (double)g.given_up);
    number("refused", (double)g.refused);
    number("sub_failures", (double)g.sub_failures);
    number("disconnects", (double)disconnects);
    printf("%s}\n", json);
    if (opt.plain > 0) return 0;
    bool faulty = missing || g.dup || g.ooo || g.alien || wills_missing || g.refused;
    return faulty || g.sub_failures || disconnects ? 3 : 0;
}
