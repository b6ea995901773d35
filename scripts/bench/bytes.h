/*
 * Small parts of both load generators: time, memory, random numbers, and how MQTT writes integers and
 * strings.
 * The program that includes it defines die().
 */
#ifndef BYTES_H
#define BYTES_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { P_CONNECT = 1, P_CONNACK, P_PUBLISH, P_PUBACK, P_PUBREC, P_PUBREL, P_PUBCOMP,
       P_SUBSCRIBE, P_SUBACK, P_UNSUBSCRIBE, P_UNSUBACK, P_PINGREQ, P_PINGRESP, P_DISCONNECT };

__attribute__((noreturn)) static void die(const char *fmt, ...);

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void *xrealloc(void *p, size_t n) {
    p = realloc(p, n ? n : 1);
    if (!p) die("out of memory");
    return p;
}
static void *xcalloc(size_t n, size_t size) {
    void *p = calloc(n ? n : 1, size);
    if (!p) die("out of memory");
    return p;
}

static uint8_t *put16(uint8_t *p, unsigned v) { p[0] = (uint8_t)(v >> 8); p[1] = (uint8_t)v; return p + 2; }
static unsigned get16(const uint8_t *p) { return (unsigned)p[0] << 8 | p[1]; }
static uint8_t *put_text(uint8_t *p, const char *s, size_t n) {
    p = put16(p, (unsigned)n);
    memcpy(p, s, n);
    return p + n;
}
static uint8_t *put_varint(uint8_t *p, uint32_t v) {
    do { *p++ = (uint8_t)((v & 127) | (v > 127 ? 128 : 0)); v >>= 7; } while (v);
    return p;
}
static unsigned varint_size(uint32_t v) { return v < 128 ? 1 : v < 16384 ? 2 : v < 2097152 ? 3 : 4; }
/* Bytes used by the variable byte integer at p, 0 if it is cut off, -1 if malformed. */
static int get_varint(const uint8_t *p, size_t n, uint32_t *v) {
    *v = 0;
    for (unsigned i = 0; i < 4; i++) {
        if (i >= n) return 0;
        *v |= (uint32_t)(p[i] & 127) << (7 * i);
        if (!(p[i] & 128)) return (int)i + 1;
    }
    return -1;
}

static uint64_t rng_state = 88172645463325252ull;
static uint32_t rnd(void) { /* xorshift64 */
    rng_state ^= rng_state << 13; rng_state ^= rng_state >> 7; rng_state ^= rng_state << 17;
    return (uint32_t)(rng_state >> 32);
}

#endif
