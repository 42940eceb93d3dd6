/* What records say, out of the lines of a structure file into C: plain members only, the others being for Python. */

#ifndef XTAR_LINES_H
#define XTAR_LINES_H

#include "facts.h"
#include "native/fields.h"

/* A directory's path below the archive's root, where each of its children's is put together. */
typedef struct {
    uint8_t bytes[LONGEST_PATH];
    size_t prefix; /* of the directory, slash included; nothing for the root */
} Path;

static bool open_path(Path *path, Span directory) {
    if (directory.length >= LONGEST_PATH)
        return false;
    put_span(path->bytes, directory);
    path->prefix = directory.length;
    if (directory.length)
        path->bytes[path->prefix++] = '/';
    return true;
}

static bool line_names(const fields *line, Path *path, File *file) {
    const string *name = &line->name;
    Member *member = &file->member;
    if (name->escaped || name->length > LONGEST_NAME - 4 || path->prefix + name->length > LONGEST_PATH ||
        !field_is_name(name->at, name->length))
        return false;
    memcpy(file->text, name->at, name->length);
    memcpy(file->text + name->length, ".zip", 4);
    memcpy(path->bytes + path->prefix, name->at, name->length);
    member->name = (Span){(const uint8_t *)file->text, name->length + 4};
    member->path = (Span){path->bytes, path->prefix + name->length};
    return true;
}

/* General purpose bits, as zip.flags() has them; what is no UTF-8 is not plain here. */
static uint16_t line_flags(Span path) {
    for (size_t i = 0; i < path.length; i++)
        if (path.bytes[i] & 0x80)
            return 0x0800;
    return 0;
}

static bool line_span(const string *from, Span *into) {
    *into = (Span){(const uint8_t *)from->at, from->length};
    return !from->escaped;
}

static bool line_crc(const string *from, uint32_t *crc) {
    return from->length == CRC32_DIGITS && read_crc(from->at, crc);
}

static bool line_places(const fields *line, File *file) {
    if (line->data < line->at || line->chunk % MIN_CHUNK ||
        (line->chunk && (line->index < line->at || line->chunk > LARGEST_CONTENT || !line->size)))
        return false;
    file->at = line->at;
    file->data = line->data - line->at;
    file->chunk = line->chunk;
    file->index = line->chunk ? line->index - line->at : 0;
    return true;
}

static bool line_sums(const fields *line, File *file) {
    file->has_packed_crc32 = line->packed_crc32.length > 0;
    if (!line_crc(&line->crc32, &file->member.crc32) || line->sha256.length != SHA256_DIGITS ||
        (file->has_packed_crc32 && !line_crc(&line->packed_crc32, &file->packed_crc32)))
        return false;
    memcpy(file->sha256, line->sha256.at, SHA256_DIGITS);
    return true;
}

static size_t chunk_count(const File *file) { return (size_t)((file->member.size + file->chunk - 1) / file->chunk); }

static size_t table_length(const File *file) {
    if (!file->chunk)
        return 0;
    size_t count = chunk_count(file);
    return TABLE_HEAD + 4 * count + (file->member.method == DEFLATED && count ? 8 * (count - 1) : 0);
}

/* Whether data and chunk table lie where they must in a plain member. */
static bool is_laid_out(const File *file) {
    const Member *member = &file->member;
    size_t head = head_length(member);
    return file->data == head &&
           (!file->chunk || file->index == head + member->packed + table_head_length(member));
}

/* A record as a file whose member lies in this archive; `at` counts from the containing tar. path: of its directory,
to which it is bound from now on, as it is to the line. */
static bool line_file(const fields *line, Path *path, File *file) {
    Member *member = &file->member;
    bool deflated = field_is(&line->method, "deflate");
    bool usual = field_is(&line->type, "file") && !line->unknown && !line->has_structure && !line->has_xattrs &&
                 !line->name_b64.length && !line->target.length && !line->target_b64.length && !line->link.length &&
                 !line->link_b64.length && (deflated || !line->method.at || field_is(&line->method, "store"));
    if (!usual || !line_names(line, path, file) || !line_places(line, file) || !line_sums(line, file) ||
        !line_span(&line->user, &member->user) || !line_span(&line->group, &member->group) || line->mode.escaped ||
        line->mtime.escaped || !field_octal(&line->mode, &member->mode) ||
        !field_time(&line->mtime, &member->mtime, &member->nanoseconds))
        return false;
    member->mode |= 0100000;
    member->uid = line->uid;
    member->gid = line->gid;
    member->size = line->size;
    member->packed = line->packed;
    member->method = deflated ? DEFLATED : STORED;
    member->flags = line_flags(member->path);
    return is_plain(member) && member->size <= LARGEST_CONTENT && is_laid_out(file);
}

#endif
