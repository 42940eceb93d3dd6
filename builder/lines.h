/* A finished member's record, and its line in the origin, as `records.to_line` and `OriginLog` write them.

The places are left out, which `finished.Finished` puts in. docs/format.md section 6 is the specification. */

#ifndef XTAR_BUILDER_LINES_H
#define XTAR_BUILDER_LINES_H

#include "../xtarfs/layout.h"

#include <stdio.h>
#include <sys/stat.h>

enum { LARGEST_LINES = 1024 }; /* with the longest name, owners and numbers of a plain member */

/* The record in three pieces, between which places belong, and the line of the origin. */
enum { PIECE_ATTRIBUTES, PIECE_PACKING, PIECE_SUMS, PIECE_ORIGIN, PIECES };

/* ends: of the pieces in `text`. */
typedef struct {
    char text[LARGEST_LINES];
    size_t used, ends[PIECES];
} Lines;

/* Whether JSON shows it as it stands. utf8: it may go beyond ASCII. */
static bool is_verbatim(Span text, bool utf8) {
    for (size_t i = 0; i < text.length; i++) {
        uint8_t c = text.bytes[i];
        if (c < ' ' || c == '"' || c == '\\' || (c >= 0x80 && !utf8))
            return false;
    }
    return true;
}

#define ADD(lines, ...)                                                                                               \
    ((lines)->used += (size_t)snprintf((lines)->text + (lines)->used, LARGEST_LINES - (lines)->used, __VA_ARGS__))

static void add_text(Lines *lines, const char *key, Span value) {
    if (value.length)
        ADD(lines, ",\"%s\":\"%.*s\"", key, (int)value.length, (const char *)value.bytes);
}

static void add_number(Lines *lines, const char *key, uint64_t value, uint64_t omitted) {
    if (value != omitted)
        ADD(lines, ",\"%s\":%llu", key, (unsigned long long)value);
}

/* Seconds, not negative, as a decimal number without trailing zeros. */
static void add_time(Lines *lines, int64_t seconds, uint32_t nanoseconds) {
    ADD(lines, "%lld", (long long)seconds);
    if (!nanoseconds)
        return;
    ADD(lines, ".%09u", nanoseconds);
    while (lines->text[lines->used - 1] == '0')
        lines->used--;
}

static void add_attributes(Lines *lines, const Member *member, Span name, uint64_t ino, uint64_t names) {
    ADD(lines, "{\"name\":\"%.*s\",\"type\":\"file\",\"mode\":\"%04o\",\"uid\":%u,\"gid\":%u", (int)name.length,
        (const char *)name.bytes, member->mode & 07777, member->uid, member->gid);
    add_text(lines, "user", member->user);
    add_text(lines, "group", member->group);
    ADD(lines, ",\"mtime\":\"");
    add_time(lines, member->mtime, member->nanoseconds);
    ADD(lines, "\",\"ino\":%llu", (unsigned long long)ino);
    add_number(lines, "nlink", names, 1);
    add_number(lines, "size", member->size, 0);
    lines->ends[PIECE_ATTRIBUTES] = lines->used;
}

static void add_packing(Lines *lines, const Member *member, uint32_t chunk_size) {
    add_number(lines, "packed", member->packed, 0);
    if (member->method == DEFLATED)
        ADD(lines, ",\"method\":\"deflate\"");
    add_number(lines, "chunk", chunk_size, 0);
    lines->ends[PIECE_PACKING] = lines->used;
}

static void add_sums(Lines *lines, const Member *member, const uint8_t sha256[32], uint32_t packed_crc32) {
    ADD(lines, ",\"crc32\":\"%08x\",\"sha256\":\"", member->crc32);
    for (size_t i = 0; i < 64; i++)
        lines->text[lines->used++] = hex_digit(sha256, i);
    ADD(lines, member->method == DEFLATED ? "\",\"packed_crc32\":\"%08x\"}\n" : "\"}\n", packed_crc32);
    lines->ends[PIECE_SUMS] = lines->used;
}

static void add_origin(Lines *lines, uint64_t ino, const struct stat *attributes) {
    ADD(lines, "[%llu,\"", (unsigned long long)ino);
    add_time(lines, attributes->st_ctim.tv_sec, (uint32_t)attributes->st_ctim.tv_nsec);
    ADD(lines, "\",%llu,%llu]\n", (unsigned long long)attributes->st_ino, (unsigned long long)attributes->st_dev);
    lines->ends[PIECE_ORIGIN] = lines->used;
}

#endif
