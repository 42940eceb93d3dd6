/* One line of a structure file, taken apart: JSON as the builder writes it.

   What is accepted here the Python decoder accepts too, with the same values. The reverse need not hold: white space,
   other kinds of numbers, unpaired surrogates and whatever else is odd is left to Python. */

#include "fields.h"

#include <stdlib.h>
#include <string.h>

static bool number32(cursor *in, uint32_t *into)
{
    uint64_t value;
    if (!json_number(in, &value) || value > UINT32_MAX)
        return false;
    *into = (uint32_t)value;
    return true;
}

/* [[start, end], ...] as the bytes that the holes take, which must ascend within a file of any size. */
static bool parse_holes(cursor *in, uint64_t *sum, uint64_t *last)
{
    *sum = *last = 0;
    if (!json_byte(in, '['))
        return false;
    if (json_byte(in, ']'))
        return true;
    do {
        uint64_t start, end;
        if (!json_byte(in, '[') || !json_number(in, &start) || !json_byte(in, ',') || !json_number(in, &end) ||
            !json_byte(in, ']') || start < *last || end < start)
            return false;
        *sum += end - start;
        *last = end;
    } while (json_byte(in, ','));
    return json_byte(in, ']');
}

/* {"name":"base64",...}: whether there are any. */
static bool parse_xattrs(cursor *in, bool *any)
{
    text scratch = {0};
    bool sound = json_byte(in, '{');
    *any = false;
    if (!sound || json_byte(in, '}'))
        return sound;
    do {
        string key, value;
        sound = json_string(in, &key) && json_byte(in, ':') && json_string(in, &value) &&
                json_append_base64(&scratch, &value) && key.length && key.at[0] != '=' && key.at[0] != '\\';
    } while (sound && json_byte(in, ','));
    free(scratch.bytes);
    *any = true;
    return sound && json_byte(in, '}');
}

static bool parse_place(cursor *in, place *into)
{
    static const struct {
        const char *key;
        size_t length, offset;
    } fields[] = {
        {"\"at\":", 5, offsetof(place, at)},
        {"\"size\":", 7, offsetof(place, size)},
        {"\"index\":", 8, offsetof(place, index)},
        {"\"catalogue\":", 12, offsetof(place, catalogue)},
    };
    memset(into, 0, sizeof *into);
    bool any = false;
    if (!json_byte(in, '{'))
        return false;
    for (size_t i = 0; i < 4; i++) {
        if (any && i > 1 && (in->at == in->end || *in->at == '}'))
            break;
        cursor before = *in;
        if ((any && !json_byte(in, ',')) || !json_literal(in, fields[i].key, fields[i].length)) {
            if (i < 2)
                return false;
            *in = before;
            continue;
        }
        if (!json_number(in, (uint64_t *)((char *)into + fields[i].offset)))
            return false;
        any = true;
    }
    return json_byte(in, '}');
}

typedef enum { STRING, NUMBER, NUMBER32, BOOLEAN, HOLES, XATTRS, STRUCTURE } kind;

#define FIELD(name, kind) {"\"" #name "\":", sizeof #name + 2, kind, offsetof(fields, name)}

/* In the order in which they are written, so that the search for each begins behind the one before. */
static const struct {
    const char *key;
    size_t length;
    kind kind;
    size_t offset;
} known[] = {
    FIELD(name, STRING), FIELD(name_b64, STRING), FIELD(type, STRING), FIELD(mode, STRING), FIELD(uid, NUMBER32),
    FIELD(gid, NUMBER32), FIELD(user, STRING), FIELD(group, STRING), FIELD(mtime, STRING), FIELD(ino, NUMBER),
    FIELD(nlink, NUMBER32), FIELD(size, NUMBER), FIELD(at, NUMBER), FIELD(data, NUMBER), FIELD(packed, NUMBER),
    FIELD(method, STRING), FIELD(chunk, NUMBER), FIELD(index, NUMBER), FIELD(table_copy, NUMBER), FIELD(crc32, STRING),
    FIELD(sha256, STRING), FIELD(packed_crc32, STRING), FIELD(holes, HOLES), {"\"changed\":", 10, BOOLEAN, 0},
    FIELD(target, STRING), FIELD(target_b64, STRING), FIELD(major, NUMBER32), FIELD(minor, NUMBER32),
    FIELD(link, STRING), FIELD(link_b64, STRING), {"\"xattrs\":", 9, XATTRS, 0}, FIELD(structure, STRUCTURE),
    FIELD(files, NUMBER), FIELD(total, NUMBER),
};
enum { KNOWN = sizeof known / sizeof *known };
enum { REQUIRED = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 };

static bool parse_value(cursor *in, kind kind, void *into, fields *all)
{
    switch (kind) {
    case STRING:
        return json_string(in, into);
    case NUMBER:
        return json_number(in, into);
    case NUMBER32:
        return number32(in, into);
    case BOOLEAN:
        return json_literal(in, "true", 4) || json_literal(in, "false", 5);
    case HOLES:
        return parse_holes(in, &all->holes, &all->holes_end);
    case XATTRS:
        return parse_xattrs(in, &all->has_xattrs);
    case STRUCTURE:
        all->has_structure = true;
        return parse_place(in, into);
    }
    return false;
}

bool fields_parse(cursor *in, fields *into)
{
    memset(into, 0, sizeof *into);
    into->nlink = 1;
    size_t next = 0;
    if (!json_byte(in, '{'))
        return false;
    do {
        size_t i = next;
        while (i < KNOWN && !json_literal(in, known[i].key, known[i].length))
            i++;
        if (i < KNOWN) {
            if (!parse_value(in, known[i].kind, (char *)into + known[i].offset, into))
                return false;
            into->seen |= 1ull << i;
            next = i + 1;
            continue;
        }
        string key;
        /* Out of order, twice, or new: what is new may mean that the data is to be had in another way. */
        cursor before = *in;
        for (i = 0; i < next; i++)
            if (json_literal(in, known[i].key, known[i].length))
                return false;
        *in = before;
        if (!json_string(in, &key) || key.escaped || !json_byte(in, ':') || !json_skip(in, 0))
            return false;
        into->unknown = true;
    } while (json_byte(in, ','));
    return json_byte(in, '}') && (into->seen & REQUIRED) == REQUIRED;
}

bool field_is(const string *value, const char *text)
{
    return !value->escaped && value->length == strlen(text) && !memcmp(value->at, text, value->length);
}

bool field_octal(const string *from, uint32_t *into)
{
    *into = 0;
    for (size_t i = 0; i < from->length; i++) {
        if (from->at[i] < '0' || from->at[i] > '7')
            return false;
        *into = *into * 8 + (uint32_t)(from->at[i] - '0');
    }
    return from->length >= 1 && from->length <= 4;
}

bool field_hex(const string *from, uint32_t *into)
{
    *into = 0;
    for (size_t i = 0; i < from->length; i++) {
        int digit = json_hex_digit(from->at[i]);
        if (digit < 0)
            return false;
        *into = *into << 4 | (uint32_t)digit;
    }
    return from->length >= 1 && from->length <= 8;
}

/* Decimal seconds as whole seconds, rounded down, and the nanoseconds beyond. */
bool field_time(const string *from, int64_t *seconds, uint32_t *nanoseconds)
{
    cursor in = {from->at, from->at + from->length};
    bool negative = json_byte(&in, '-');
    const char *start = in.at;
    int64_t whole = 0, rest = 0;
    while (in.at < in.end && *in.at >= '0' && *in.at <= '9')
        if (in.at - start >= 17)
            return false;
        else
            whole = whole * 10 + (*in.at++ - '0');
    if (in.at == start)
        return false;
    if (json_byte(&in, '.')) {
        int digits = 0;
        for (; in.at < in.end && *in.at >= '0' && *in.at <= '9' && digits < 9; digits++)
            rest = rest * 10 + (*in.at++ - '0');
        if (!digits)
            return false;
        for (; digits < 9; digits++)
            rest *= 10;
    }
    if (in.at != in.end || from->length > 32)
        return false;
    if (negative) {
        whole = -whole - (rest > 0);
        rest = rest > 0 ? 1000000000 - rest : 0;
    }
    *seconds = whole;
    *nanoseconds = (uint32_t)rest;
    return true;
}

bool field_is_name(const char *name, size_t length)
{
    return length && !(length == 1 && name[0] == '.') && !(length == 2 && name[0] == '.' && name[1] == '.') &&
           !memchr(name, '/', length);
}
