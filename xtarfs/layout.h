/* The bytes that surround a regular file's packed data: what format/member.py calls `file_bytes`, for plain members.

Plain: every value fits the ustar and zip fields that hold it, no pax header and no zip64 being needed. The others,
one in thousands, are for Python. docs/format.md sections 2 to 4 are the specification. */

#ifndef XTAR_LAYOUT_H
#define XTAR_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { BLOCK = 512, LONGEST_NAME = 100, LONGEST_OWNER = 31, LONGEST_PATH = 4096, STORED = 0, DEFLATED = 8 };
enum { LOCAL = 30, CENTRAL = 46, END = 22, EXTRA = 9 + 15 + 17, SUFFIX = 10, TABLE_HEAD = 32 };

enum { MIN_CHUNK = 4096 }; /* chunk sizes are multiples of it */

#define LARGEST_SIZE (UINT32_C(1) << 31)
#define LARGEST_ID (UINT32_C(1) << 21)
#define LARGEST_TIME (INT64_C(1) << 31)

/* Room that is enough around the data of any plain member, its chunk table aside. */
#define LARGEST_HEAD (BLOCK + LOCAL + LONGEST_PATH + EXTRA)
#define LARGEST_TAIL (LOCAL + LONGEST_PATH + SUFFIX + 1 + CENTRAL + LONGEST_PATH + EXTRA + END + BLOCK)

typedef struct {
    const uint8_t *bytes;
    size_t length;
} Span;

/* name: the member's. path: below the archive's root. flags: zip's general purpose bits for it. mtime: seconds and
nanoseconds. mode: with the file type bits. ino: the containing directory's inode number. */
typedef struct {
    Span name, path, user, group;
    const uint8_t *tag;
    uint32_t ino, mode, uid, gid;
    int64_t mtime;
    uint32_t nanoseconds;
    uint16_t flags, method;
    uint32_t crc32;
    uint64_t size, packed;
} Member;

static bool is_plain(const Member *member) {
    return member->name.length <= LONGEST_NAME && member->path.length <= LONGEST_PATH &&
           member->user.length <= LONGEST_OWNER && member->group.length <= LONGEST_OWNER && member->uid < LARGEST_ID &&
           member->gid < LARGEST_ID && member->mtime >= 0 && member->mtime < LARGEST_TIME &&
           member->size < LARGEST_SIZE && member->packed < LARGEST_SIZE;
}

static uint8_t *put16(uint8_t *at, uint32_t value) {
    *at++ = (uint8_t)value;
    *at++ = (uint8_t)(value >> 8);
    return at;
}

static uint8_t *put32(uint8_t *at, uint32_t value) { return put16(put16(at, value), value >> 16); }

static uint32_t read32(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint64_t read64(const uint8_t *at) { return read32(at) | (uint64_t)read32(at + 4) << 32; }

static uint8_t *put_span(uint8_t *at, Span span) {
    memcpy(at, span.bytes, span.length);
    return at + span.length;
}

/* The i-th digit of a checksum in hex. */
static char hex_digit(const uint8_t *sum, size_t i) {
    return "0123456789abcdef"[i & 1 ? sum[i / 2] & 15 : sum[i / 2] >> 4];
}

static void put_octal(uint8_t *at, int digits, uint64_t value) {
    while (digits--) {
        at[digits] = (uint8_t)('0' + (value & 7));
        value >>= 3;
    }
}

static uint32_t dos_time(int64_t mtime) {
    const int64_t first = 315532800; /* 1980 */
    int64_t seconds = mtime > first ? mtime : first, days = seconds / 86400 + 719468, clock = seconds % 86400;
    /* days from 0000-03-01: years that end with February (Howard Hinnant, "chrono-compatible date algorithms") */
    int64_t era = days / 146097, day = days % 146097;
    int64_t year = (day - day / 1460 + day / 36524 - day / 146096) / 365;
    int64_t of_year = day - (365 * year + year / 4 - year / 100), shifted = (5 * of_year + 2) / 153;
    int64_t month = shifted < 10 ? shifted + 3 : shifted - 9;
    year += era * 400 + (month <= 2);
    return (uint32_t)((year - 1980) << 25 | month << 21 | (of_year - (153 * shifted + 2) / 5 + 1) << 16 |
                      clock / 3600 << 11 | clock / 60 % 60 << 5 | clock % 60 >> 1);
}

static void put_tar_header(uint8_t *block, const Member *member, uint64_t size) {
    memset(block, 0, BLOCK);
    put_span(block, member->name);
    put_octal(block + 100, 7, 0600);
    put_octal(block + 108, 7, member->uid);
    put_octal(block + 116, 7, member->gid);
    put_octal(block + 124, 11, size);
    put_octal(block + 136, 11, (uint64_t)member->mtime);
    memset(block + 148, ' ', 8);
    block[156] = '0';
    memcpy(block + 257, "ustar\00000", 8);
    put_span(block + 265, member->user);
    put_span(block + 297, member->group);
    put_octal(block + 329, 7, 0);
    put_octal(block + 337, 7, 0);
    memcpy(block + 500, member->tag, 6);
    put32(block + 506, member->ino);
    block[510] = 'x';
    block[511] = 'f';
    uint32_t sum = 0;
    for (int i = 0; i < BLOCK; i++)
        sum += block[i];
    put_octal(block + 148, 6, sum);
    block[154] = 0;
}

/* The fields that local header and central directory share, from the version needed to the extra field's length. */
static uint8_t *put_shared(uint8_t *at, const Member *member) {
    at = put16(at, member->method == DEFLATED ? 20 : 10);
    at = put16(at, member->flags);
    at = put16(at, member->method);
    at = put32(at, dos_time(member->mtime));
    at = put32(at, member->crc32);
    at = put32(at, (uint32_t)member->packed);
    at = put32(at, (uint32_t)member->size);
    at = put16(at, (uint32_t)member->path.length);
    return put16(at, EXTRA);
}

static uint8_t *put_name_and_extra(uint8_t *at, const Member *member) {
    at = put_span(at, member->path);
    at = put16(put16(at, 0x5455), 5);
    *at++ = 1;
    at = put32(at, (uint32_t)member->mtime);
    at = put16(put16(at, 0x7875), 11);
    *at++ = 1;
    *at++ = 4;
    at = put32(at, member->uid);
    *at++ = 4;
    at = put32(at, member->gid);
    at = put16(put16(at, 0x5458), 13);
    *at++ = 1;
    memcpy(at, member->tag, 6);
    at = put32(at + 6, member->nanoseconds);
    return put16(at, member->mode & 07777);
}

static size_t head_length(const Member *member) { return BLOCK + LOCAL + member->path.length + EXTRA; }

/* Where the chunk table begins in the tail. */
static size_t table_head_length(const Member *member) {
    return LOCAL + member->path.length + 1 + SUFFIX - (member->method == STORED);
}

static size_t unpadded_tail_length(const Member *member, size_t table_length) {
    size_t table = table_length ? table_head_length(member) + table_length : 0;
    return table + CENTRAL + member->path.length + EXTRA + END;
}

/* Bytes of the zip alone: what the tar header states. */
static uint64_t zip_length(const Member *member, size_t table_length) {
    return head_length(member) - BLOCK + member->packed + unpadded_tail_length(member, table_length);
}

static uint8_t *put_head(uint8_t *at, const Member *member, size_t table_length) {
    put_tar_header(at, member, zip_length(member, table_length));
    memcpy(at + BLOCK, "PK\3\4", 4);
    return put_name_and_extra(put_shared(at + BLOCK + 4, member), member);
}

/* Local header of the hidden entry that holds the chunk table. */
static uint8_t *put_table_head(uint8_t *at, const Member *member, size_t table_length, uint32_t table_crc) {
    const uint8_t *name = member->path.bytes, *base = name + member->path.length;
    while (base > name && base[-1] != '/')
        base--;
    size_t folder = (size_t)(base - name), rest = member->path.length - folder;
    memcpy(at, "PK\3\4", 4);
    at = put16(put16(put16(at + 4, 10), member->flags), STORED);
    at = put32(put32(at, dos_time(0)), table_crc);
    at = put32(put32(at, (uint32_t)table_length), (uint32_t)table_length);
    at = put16(put16(at, (uint32_t)(table_head_length(member) - LOCAL)), 0);
    at = put_span(at, (Span){name, folder});
    *at++ = '.';
    at = put_span(at, (Span){base, rest});
    return member->method == DEFLATED ? put_span(at, (Span){(const uint8_t *)".sozip.idx", 10})
                                      : put_span(at, (Span){(const uint8_t *)".xtar.crc", 9});
}

/* Central directory, end record and padding. */
static uint8_t *put_end(uint8_t *at, const Member *member, size_t table_length) {
    uint64_t size = zip_length(member, table_length);
    size_t central = CENTRAL + member->path.length + EXTRA;
    memcpy(at, "PK\1\2", 4);
    at = put_shared(put16(at + 4, 3 << 8 | 30), member);
    at = put32(put16(put16(put16(at, 0), 0), 0), member->mode << 16);
    at = put_name_and_extra(put32(at, 0), member);
    memcpy(at, "PK\5\6\0\0\0\0\1\0\1\0", 12);
    at = put32(put32(at + 12, (uint32_t)central), (uint32_t)(size - END - central));
    at = put16(at, 0);
    size_t padding = (size_t)(-size % BLOCK);
    memset(at, 0, padding);
    return at + padding;
}

#endif
