/* Structure records: JSON as the builder writes it, one object a line.

   What is accepted here the Python decoder accepts too, with the same values. The reverse need not hold: white space,
   other kinds of numbers, unpaired surrogates and whatever else is odd is left to Python. */

#include "json.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* The bytes that a text field and its base64 stand for; *length is what was appended. */
static bool append_raw(text *into, const string *plain, const string *encoded, size_t most, uint16_t *length)
{
    size_t before = into->length;
    if (encoded->length ? !json_append_base64(into, encoded) : !json_append(into, plain))
        return false;
    size_t appended = into->length - before;
    *length = (uint16_t)appended;
    return appended <= most && !memchr(into->bytes + before, 0, appended);
}

static bool number32(cursor *in, uint32_t *into)
{
    uint64_t value;
    if (!json_number(in, &value) || value > UINT32_MAX)
        return false;
    *into = (uint32_t)value;
    return true;
}

static bool parse_octal(const string *from, uint32_t *into)
{
    *into = 0;
    for (size_t i = 0; i < from->length; i++) {
        if (from->at[i] < '0' || from->at[i] > '7')
            return false;
        *into = *into * 8 + (uint32_t)(from->at[i] - '0');
    }
    return from->length >= 1 && from->length <= 4;
}

static bool parse_hex(const string *from, uint32_t *into)
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
static bool parse_time(const string *from, int64_t *seconds, uint32_t *nanoseconds)
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

typedef struct {
    uint64_t at, size, index, catalogue;
} place;

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

/* The fields of a record, as they stand. */
typedef struct {
    string name, name_b64, type, mode, user, group, mtime, method, crc32, sha256, packed_crc32;
    string target, target_b64, link, link_b64;
    uint64_t ino, size, at, data, packed, chunk, index, table_copy, files, total, holes, holes_end;
    uint32_t uid, gid, nlink, major, minor;
    place structure;
    bool has_structure, has_xattrs, unknown;
    uint64_t seen;
} fields;

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

static bool parse_fields(cursor *in, fields *into)
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

static bool is(const string *value, const char *text)
{
    return !value->escaped && value->length == strlen(text) && !memcmp(value->at, text, value->length);
}

static uint32_t type_bits(const string *type)
{
    static const struct {
        const char *name;
        uint32_t bits;
    } types[] = {{"file", S_IFREG},  {"dir", S_IFDIR},  {"symlink", S_IFLNK},
                 {"fifo", S_IFIFO},  {"char", S_IFCHR}, {"block", S_IFBLK}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (is(type, types[i].name))
            return types[i].bits;
    return 0;
}

static bool inside(uint64_t start, uint64_t length, uint64_t room)
{
    return start <= room && length <= room - start;
}

enum { BLOCK = 4096 };

static bool file_entry(const fields *from, const origin *origin, entry *into)
{
    if (from->holes_end > from->size)
        return false;
    into->blocks = (from->size - from->holes + BLOCK - 1) / BLOCK * (BLOCK / 512);
    bool deflated = is(&from->method, "deflate");
    bool simple = !from->unknown && !from->link.length && !from->link_b64.length && from->data &&
                  (deflated || !from->method.at || is(&from->method, "store")) &&
                  inside(from->data, from->packed, origin->length) &&
                  (!from->chunk || inside(from->index, 32, origin->length)) && from->chunk < 1u << 30;
    into->flags |= deflated ? DEFLATED : 0;
    parse_hex(&from->crc32, &into->crc);
    if (!simple || (!from->crc32.length && !from->chunk)) {
        into->flags |= ASK_DATA;
        return true;
    }
    into->data = origin->start + from->data;
    into->packed = from->packed;
    into->index = origin->start + from->index;
    into->chunk = (uint32_t)from->chunk;
    return true;
}

static bool directory_entry(const fields *from, const origin *origin, entry *into)
{
    const place *structure = &from->structure;
    if (!from->data || !from->packed || !inside(from->data, from->packed, origin->length))
        return false;
    into->size = BLOCK;
    into->start = origin->start + from->data;
    into->length = from->packed;
    if (!from->has_structure || !inside(structure->at, structure->size, from->packed) ||
        structure->index > structure->size || structure->size > UINT32_MAX || from->unknown) {
        into->flags |= ASK_CHILDREN;
        return true;
    }
    /* The copies in the catalogue lie side by side, so that one read of the medium brings many. */
    into->structure = origin->catalogue ? origin->catalogue + structure->catalogue : into->start + structure->at;
    into->structure_size = (uint32_t)structure->size;
    into->index_length = (uint32_t)structure->index;
    return true;
}

static bool is_name(const char *name, size_t length)
{
    return length && !(length == 1 && name[0] == '.') && !(length == 2 && name[0] == '.' && name[1] == '.') &&
           !memchr(name, '/', length);
}

static bool make_entry(const fields *from, const origin *origin, entry *into, text *names)
{
    memset(into, 0, sizeof *into);
    uint32_t type = type_bits(&from->type), permissions;
    if (!type || from->chunk % BLOCK || from->mode.escaped || from->mtime.escaped || from->method.escaped ||
        !parse_octal(&from->mode, &permissions) || !parse_time(&from->mtime, &into->mtime, &into->mtime_nsec))
        return false;
    size_t start = names->length;
    if (!append_raw(names, &from->name, &from->name_b64, MAX_NAME, &into->name_length) ||
        !append_raw(names, &from->target, &from->target_b64, MAX_TARGET, &into->target_length) ||
        !is_name(names->bytes + start, into->name_length))
        return false;
    into->ino = from->ino;
    into->size = from->size;
    into->mode = (uint16_t)(type | permissions);
    into->nlink = from->nlink;
    into->uid = from->uid;
    into->gid = from->gid;
    into->rdev = (from->minor & 0xFF) | (from->major & 0xFFF) << 8 | (from->minor & ~0xFFu) << 12;
    into->flags = from->has_xattrs ? ASK_XATTRS : 0;
    if (type == S_IFREG)
        return file_entry(from, origin, into);
    if (type == S_IFDIR)
        return directory_entry(from, origin, into);
    return true;
}

static bool is_crc(const string *from)
{
    uint32_t ignored;
    return !from->length || (!from->escaped && parse_hex(from, &ignored));
}

/* Fields that this entry does not use must still be such as Python takes. */
static bool others_sound(const fields *from)
{
    text scratch = {0};
    bool sound = json_append_base64(&scratch, &from->link_b64) && is_crc(&from->crc32) && is_crc(&from->packed_crc32) &&
                 from->major <= INT32_MAX && from->minor <= INT32_MAX;
    free(scratch.bytes);
    return sound;
}

bool record_parse(const char **at, const char *end, const origin *origin, entry *into, text *names)
{
    cursor in = {*at, end};
    fields all;
    if (!parse_fields(&in, &all) || !others_sound(&all) || !make_entry(&all, origin, into, names) ||
        !json_byte(&in, '\n'))
        return false;
    *at = in.at;
    return true;
}

bool header_parse(const char **at, const char *end)
{
    cursor in = {*at, end};
    string version, tag, path, encoded;
    uint64_t children;
    fields directory;
    text scratch = {0};
    bool sound = json_literal(&in, "{\"xtar\":", 8) && json_string(&in, &version) &&
                 json_literal(&in, ",\"tag\":", 7) && json_string(&in, &tag) && tag.length == 12 &&
                 json_literal(&in, ",\"path\":", 8) && json_string(&in, &path);
    for (size_t i = 0; sound && i < tag.length; i++)
        sound = json_hex_digit(tag.at[i]) >= 0 && !(tag.at[i] >= 'A' && tag.at[i] <= 'F');
    if (sound && json_literal(&in, ",\"path_b64\":", 12))
        sound = json_string(&in, &encoded) && json_append_base64(&scratch, &encoded);
    free(scratch.bytes);
    sound = sound && json_literal(&in, ",\"children\":", 12) && json_number(&in, &children) &&
            json_literal(&in, ",\"directory\":", 13) && parse_fields(&in, &directory) && json_literal(&in, "}\n", 2);
    *at = in.at;
    return sound;
}

bool index_parse(const char *at, const char *end, block_start **starts, size_t *count, text *names)
{
    cursor in = {at, end};
    size_t room = 0;
    *starts = NULL;
    *count = 0;
    if (!json_literal(&in, "{\"blocks\":[", 11))
        return false;
    do {
        string first = {0}, encoded = {0};
        block_start start = {0};
        if (!json_literal(&in, "{\"at\":", 6) || !json_number(&in, &start.at) ||
            !json_literal(&in, ",\"length\":", 10) || !json_number(&in, &start.length) ||
            !json_literal(&in, ",\"count\":", 9) || !json_number(&in, &start.count) ||
            !json_literal(&in, ",\"first\":", 9) || !json_string(&in, &first))
            return false;
        if (json_literal(&in, ",\"first_b64\":", 13) && !json_string(&in, &encoded))
            return false;
        start.first = names->length;
        if (!append_raw(names, &first, &encoded, MAX_NAME, &start.first_length) || !json_byte(&in, '}'))
            return false;
        if (*count == room) {
            room = room ? room * 2 : 16;
            block_start *grown = realloc(*starts, room * sizeof *grown);
            if (!grown)
                return false;
            *starts = grown;
        }
        (*starts)[(*count)++] = start;
    } while (json_byte(&in, ','));
    return json_literal(&in, "]}\n", 3) && in.at == in.end;
}
