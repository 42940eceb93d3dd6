/* One block of a structure file: unpacked, checked, decoded. */

#include "native.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    HEAD = 20,
    TAIL = 8,
    MOST_TEXT = (64 << 10) + (1 << 20), /* Python takes longer lines */
};

bool read_whole(int archive, void *into, size_t size, uint64_t at)
{
    struct iovec at_hand = {into, size};
    if (preadv2(archive, &at_hand, 1, (off_t)at, RWF_NOWAIT) == (ssize_t)size)
        return true;
    may_take_long();
    for (size_t got = 0; got < size;) {
        ssize_t more = pread(archive, (char *)into + got, size - got, (off_t)(at + got));
        if (more > 0)
            got += (size_t)more;
        else if (more == 0 || errno != EINTR)
            return false;
    }
    return true;
}

static uint32_t little32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* The text ends with a newline, or it is none of ours. */
char *block_unpack(const uint8_t *packed, size_t length, size_t *size)
{
    static const uint8_t signature[4] = {0x1F, 0x8B, 8, 4}, extra[6] = {8, 0, 'X', 'T', 4, 0};
    if (length <= HEAD + TAIL || memcmp(packed, signature, 4) || memcmp(packed + 10, extra, 6) ||
        little32(packed + 16) != length)
        return NULL;
    uint32_t crc = little32(packed + length - 8);
    *size = little32(packed + length - 4);
    if (!*size || *size > MOST_TEXT)
        return NULL;
    char *plain = malloc(*size);
    decompressor *engine = plain ? engine_new() : NULL;
    bool sound = engine && engine_inflate(engine, packed + HEAD, length - HEAD - TAIL, (uint8_t *)plain, *size) &&
                 engine_crc32((uint8_t *)plain, *size) == crc && plain[*size - 1] == '\n';
    engine_free(engine);
    if (sound)
        return plain;
    free(plain);
    return NULL;
}

void block_free(block *block)
{
    free(block->rows);
    free(block->text);
    free(block);
}

static bool add_row(block *into, size_t *room, const row *made)
{
    if (into->count == *room) {
        size_t more = *room ? *room * 2 : 64;
        row *grown = realloc(into->rows, more * sizeof *grown);
        if (!grown)
            return false;
        into->rows = grown;
        *room = more;
    }
    into->rows[into->count++] = *made;
    return true;
}

int name_compare(const char *a, size_t a_length, const char *b, size_t b_length)
{
    int order = memcmp(a, b, a_length < b_length ? a_length : b_length);
    return order ? order : (a_length > b_length) - (a_length < b_length);
}

/* Whether a row may follow those before: names ascend, and directories lie side by side. */
static bool fits(block *into, const text *names, const row *made)
{
    if (into->count) {
        const row *last = &into->rows[into->count - 1];
        if (name_compare(names->bytes + last->name, last->entry.name_length, names->bytes + made->name,
                    made->entry.name_length) >= 0)
            return false;
    }
    if (!S_ISDIR(made->entry.mode))
        return true;
    if (made->entry.start < into->tars_end)
        return false;
    if (!into->tars_begin)
        into->tars_begin = made->entry.start;
    into->tars_end = made->entry.start + made->entry.length;
    return true;
}

block *block_parse(const char *at, const char *end, bool header, const origin *origin)
{
    block *made = calloc(1, sizeof *made);
    text names = {0};
    size_t room = 0;
    bool sound = made && (!header || header_parse(&at, end));
    while (sound && at < end) {
        row next = {.name = (uint32_t)names.length};
        sound = record_parse(&at, end, origin, &next.entry, &names) && fits(made, &names, &next) &&
                add_row(made, &room, &next);
    }
    if (made) {
        made->text = names.bytes;
        made->weight = sizeof *made + room * sizeof *made->rows + names.room;
    } else {
        free(names.bytes);
    }
    if (sound)
        return made;
    if (made)
        block_free(made);
    return NULL;
}

const row *block_find(const block *block, const char *name, size_t length)
{
    size_t low = 0, high = block->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const row *at = &block->rows[middle];
        int order = name_compare(block->text + at->name, at->entry.name_length, name, length);
        if (!order)
            return at;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}
