/* Structure records as what a mount knows of names, by the rules of fields.c. */

#include "fields.h"
#include "native.h"

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

static uint32_t type_bits(const string *type)
{
    static const struct {
        const char *name;
        uint32_t bits;
    } types[] = {{"file", S_IFREG},  {"dir", S_IFDIR},  {"symlink", S_IFLNK},
                 {"fifo", S_IFIFO},  {"char", S_IFCHR}, {"block", S_IFBLK}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (field_is(type, types[i].name))
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
    bool deflated = field_is(&from->method, "deflate");
    bool simple = !from->unknown && !from->link.length && !from->link_b64.length && from->data &&
                  (deflated || !from->method.at || field_is(&from->method, "store")) &&
                  inside(from->data, from->packed, origin->length) &&
                  (!from->chunk || inside(from->index, 32, origin->length)) && from->chunk < 1u << 30;
    into->flags |= deflated ? DEFLATED : 0;
    field_hex(&from->crc32, &into->crc);
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

static bool make_entry(const fields *from, const origin *origin, entry *into, text *names)
{
    memset(into, 0, sizeof *into);
    uint32_t type = type_bits(&from->type), permissions;
    if (!type || from->chunk % BLOCK || from->mode.escaped || from->mtime.escaped || from->method.escaped ||
        !field_octal(&from->mode, &permissions) || !field_time(&from->mtime, &into->mtime, &into->mtime_nsec))
        return false;
    size_t start = names->length;
    if (!append_raw(names, &from->name, &from->name_b64, MAX_NAME, &into->name_length) ||
        !append_raw(names, &from->target, &from->target_b64, MAX_TARGET, &into->target_length) ||
        !field_is_name(names->bytes + start, into->name_length))
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
    return !from->length || (!from->escaped && field_hex(from, &ignored));
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
    if (!fields_parse(&in, &all) || !others_sound(&all) || !make_entry(&all, origin, into, names) ||
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
            json_literal(&in, ",\"directory\":", 13) && fields_parse(&in, &directory) && json_literal(&in, "}\n", 2);
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
