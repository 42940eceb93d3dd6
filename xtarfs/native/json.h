/* JSON as msgspec writes it: no white space, integers only. What is odd is refused, and Python is asked. */

#ifndef XTAR_JSON_H
#define XTAR_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Text that grows. */
typedef struct {
    char *bytes;
    size_t length, room;
} text;

typedef struct {
    const char *at, *end;
} cursor;

typedef struct {
    const char *at; /* between the quotes, escapes and all */
    size_t length;
    bool escaped;
} string;

/* All of these go past what they take, and return false where it does not stand there. */
bool json_literal(cursor *in, const char *text, size_t length);
bool json_byte(cursor *in, char wanted);
bool json_string(cursor *in, string *into);
/* An integer from 0 to 10^18. */
bool json_number(cursor *in, uint64_t *into);
/* A value of any kind; `depth` is how deep it lies. */
bool json_skip(cursor *in, int depth);

/* Append what a string, or the base64 in it, stands for. */
bool json_append(text *into, const string *from);
bool json_append_base64(text *into, const string *from);
int json_hex_digit(char digit);

#endif
