/* One line of JSON: field() and number() append to it, and the program prints `json` and a closing brace. */
#ifndef REPORT_H
#define REPORT_H
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

static char json[8192];
static size_t json_len;
static void field(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    json_len += (size_t)snprintf(json + json_len, sizeof json - json_len, "%s", json_len ? "," : "{");
    json_len += (size_t)vsnprintf(json + json_len, sizeof json - json_len, fmt, ap);
    va_end(ap);
}
static void number(const char *name, double v) {
    if (v >= 1e15 || v != v) field("\"%s\":null", name);
    else if (v == (double)(int64_t)v) field("\"%s\":%lld", name, (long long)v);
    else field("\"%s\":%.3f", name, v);
}

#endif
