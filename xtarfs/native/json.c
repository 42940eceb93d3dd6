/* The parts that JSON is made of. */

#include "json.h"

#include <stdlib.h>
#include <string.h>

bool json_literal(cursor *in, const char *text, size_t length)
{
    if ((size_t)(in->end - in->at) < length || memcmp(in->at, text, length))
        return false;
    in->at += length;
    return true;
}

bool json_byte(cursor *in, char wanted)
{
    if (in->at == in->end || *in->at != wanted)
        return false;
    in->at++;
    return true;
}

int json_hex_digit(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    if (digit >= 'a' && digit <= 'f')
        return digit - 'a' + 10;
    if (digit >= 'A' && digit <= 'F')
        return digit - 'A' + 10;
    return -1;
}

/* The length of the UTF-8 sequence at `at`, 0 if it is none. */
static size_t utf8(const unsigned char *at, size_t room)
{
    unsigned char first = at[0];
    size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
    if (first < 0xC2 || first > 0xF4 || length > room)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((at[i] & 0xC0) != 0x80)
            return 0;
    if ((first == 0xE0 && at[1] < 0xA0) || (first == 0xED && at[1] > 0x9F) || (first == 0xF0 && at[1] < 0x90) ||
        (first == 0xF4 && at[1] > 0x8F))
        return 0;
    return length;
}

/* \uXXXX as a code point that stands alone, -1 for all else. */
static int unicode_escape(const char *digits)
{
    int value = 0;
    for (int i = 0; i < 4; i++) {
        int digit = json_hex_digit(digits[i]);
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value >= 0xD800 && value <= 0xDFFF ? -1 : value;
}

bool json_string(cursor *in, string *into)
{
    if (!json_byte(in, '"'))
        return false;
    into->at = in->at;
    into->escaped = false;
    while (in->at < in->end) {
        unsigned char c = (unsigned char)*in->at;
        if (c == '"') {
            into->length = (size_t)(in->at++ - into->at);
            return true;
        }
        if (c < 0x20)
            return false;
        if (c == '\\') {
            into->escaped = true;
            if (in->end - in->at < 2)
                return false;
            if (in->at[1] == 'u') {
                if (in->end - in->at < 6 || unicode_escape(in->at + 2) < 0)
                    return false;
                in->at += 6;
            } else if (memchr("\"\\/bfnrt", in->at[1], 8)) {
                in->at += 2;
            } else {
                return false;
            }
        } else if (c < 0x80) {
            in->at++;
        } else {
            size_t length = utf8((const unsigned char *)in->at, (size_t)(in->end - in->at));
            if (!length)
                return false;
            in->at += length;
        }
    }
    return false;
}

static char *text_room(text *text, size_t more)
{
    if (!text->bytes || text->room - text->length < more) {
        size_t room = (text->length + more) * 2 + 256;
        char *bytes = realloc(text->bytes, room);
        if (!bytes)
            return NULL;
        text->bytes = bytes;
        text->room = room;
    }
    return text->bytes + text->length;
}

/* Appends what the string stands for. */
bool json_append(text *into, const string *from)
{
    char *out = text_room(into, from->length);
    if (!out)
        return false;
    if (!from->escaped) {
        if (from->length)
            memcpy(out, from->at, from->length);
        into->length += from->length;
        return true;
    }
    const char *at = from->at, *end = from->at + from->length;
    while (at < end) {
        if (*at != '\\') {
            *out++ = *at++;
            continue;
        }
        static const char letters[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
        if (at[1] != 'u') {
            *out++ = values[strchr(letters, at[1]) - letters];
            at += 2;
            continue;
        }
        int point = unicode_escape(at + 2);
        at += 6;
        if (point < 0x80) {
            *out++ = (char)point;
        } else if (point < 0x800) {
            *out++ = (char)(0xC0 | point >> 6);
            *out++ = (char)(0x80 | (point & 0x3F));
        } else {
            *out++ = (char)(0xE0 | point >> 12);
            *out++ = (char)(0x80 | (point >> 6 & 0x3F));
            *out++ = (char)(0x80 | (point & 0x3F));
        }
    }
    into->length = (size_t)(out - into->bytes);
    return true;
}

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool json_append_base64(text *into, const string *from)
{
    if (from->escaped || from->length % 4)
        return false;
    char *out = text_room(into, from->length / 4 * 3);
    if (!out)
        return false;
    for (size_t i = 0; i < from->length; i += 4) {
        const char *four = from->at + i;
        size_t pad = i + 4 < from->length ? 0 : (size_t)(four[3] == '=') + (size_t)(four[3] == '=' && four[2] == '=');
        uint32_t bits = 0;
        for (size_t k = 0; k < 4; k++) {
            int digit = k >= 4 - pad ? 0 : base64_digit(four[k]);
            if (digit < 0)
                return false;
            bits = bits << 6 | (uint32_t)digit;
        }
        *out++ = (char)(bits >> 16);
        if (pad < 2)
            *out++ = (char)(bits >> 8);
        if (pad < 1)
            *out++ = (char)bits;
    }
    into->length = (size_t)(out - into->bytes);
    return true;
}

bool json_number(cursor *in, uint64_t *into)
{
    const char *start = in->at;
    uint64_t value = 0;
    while (in->at < in->end && *in->at >= '0' && *in->at <= '9') {
        value = value * 10 + (uint64_t)(*in->at - '0');
        if (++in->at - start > 18)
            return false;
    }
    *into = value;
    return in->at > start && (in->at - start == 1 || *start != '0');
}

enum { MAX_DEPTH = 16 };

bool json_skip(cursor *in, int depth)
{
    string ignored;
    uint64_t number;
    if (in->at == in->end || depth > MAX_DEPTH)
        return false;
    switch (*in->at) {
    case '"':
        return json_string(in, &ignored);
    case '{':
    case '[': {
        char open = *in->at++, close = open == '{' ? '}' : ']';
        if (json_byte(in, close))
            return true;
        do {
            if (open == '{' && (!json_string(in, &ignored) || !json_byte(in, ':')))
                return false;
            if (!json_skip(in, depth + 1))
                return false;
        } while (json_byte(in, ','));
        return json_byte(in, close);
    }
    case 't':
        return json_literal(in, "true", 4);
    case 'f':
        return json_literal(in, "false", 5);
    case 'n':
        return json_literal(in, "null", 4);
    default:
        json_byte(in, '-');
        return json_number(in, &number);
    }
}
