/* Content: packed bytes from the archive, unpacked and checked before any of them is given out. */

#include "native.h"

#include <stdlib.h>
#include <string.h>

enum {
    MOST_AT_ONCE = 2 << 20,              /* bytes of content; Python does what needs more */
    MOST_OVERHEAD = 1024,                /* bytes by which packing may lengthen what does not shrink */
    TABLE_HEAD = 32,                     /* bytes before the rows of a chunk table */
    PIECE_OVERHEAD = sizeof(piece) + 16, /* bytes that a kept chunk takes besides its own */
};

bool area_grow(area *area, size_t room)
{
    if (room <= area->room)
        return true;
    uint8_t *bytes = realloc(area->bytes, room);
    if (!bytes)
        return false;
    area->bytes = bytes;
    area->room = room;
    return true;
}

void reader_clear(reader *reader)
{
    engine_free(reader->engine);
    free(reader->packed.bytes);
    free(reader->plain.bytes);
    free(reader->table.bytes);
}

/* --- chunks of which only a part was wanted --- */

static size_t piece_hash(uint64_t data, uint64_t number)
{
    return (size_t)((data * 0x9E3779B97F4A7C15ull >> 32) + number) % 4096;
}

static void unlink_piece(pieces *pieces, piece *piece)
{
    *(piece->newer ? &piece->newer->older : &pieces->newest) = piece->older;
    *(piece->older ? &piece->older->newer : &pieces->oldest) = piece->newer;
    piece->newer = piece->older = NULL;
}

static void put_first(pieces *pieces, piece *piece)
{
    piece->older = pieces->newest;
    *(pieces->newest ? &pieces->newest->newer : &pieces->oldest) = piece;
    pieces->newest = piece;
}

static void drop_oldest(pieces *pieces)
{
    piece *oldest = pieces->oldest, **link = &pieces->buckets[piece_hash(oldest->data, oldest->number)];
    while (*link != oldest)
        link = &(*link)->next;
    *link = oldest->next;
    unlink_piece(pieces, oldest);
    pieces->weight -= oldest->size + PIECE_OVERHEAD;
    if (!--oldest->users)
        free(oldest);
}

static piece *find_piece(pieces *pieces, uint64_t data, uint64_t number)
{
    pthread_mutex_lock(&pieces->lock);
    piece *found = pieces->buckets[piece_hash(data, number)];
    while (found && (found->data != data || found->number != number))
        found = found->next;
    if (found) {
        found->users++;
        unlink_piece(pieces, found);
        put_first(pieces, found);
    }
    pthread_mutex_unlock(&pieces->lock);
    return found;
}

static void keep_piece(pieces *pieces, uint64_t data, uint64_t number, const uint8_t *bytes, size_t size)
{
    if (size + PIECE_OVERHEAD > pieces->capacity)
        return;
    piece *made = malloc(sizeof *made + size);
    if (!made)
        return;
    *made = (piece){.data = data, .number = number, .users = 1, .size = size};
    memcpy(made->bytes, bytes, size);
    pthread_mutex_lock(&pieces->lock);
    piece **bucket = &pieces->buckets[piece_hash(data, number)];
    made->next = *bucket;
    *bucket = made;
    put_first(pieces, made);
    pieces->weight += size + PIECE_OVERHEAD;
    while (pieces->weight > pieces->capacity)
        drop_oldest(pieces);
    pthread_mutex_unlock(&pieces->lock);
}

void data_release(reader *reader, pieces *pieces)
{
    if (!reader->held)
        return;
    pthread_mutex_lock(&pieces->lock);
    if (!--reader->held->users)
        free(reader->held);
    pthread_mutex_unlock(&pieces->lock);
    reader->held = NULL;
}

void pieces_init(pieces *pieces, size_t capacity)
{
    memset(pieces, 0, sizeof *pieces);
    pieces->capacity = capacity;
    pthread_mutex_init(&pieces->lock, NULL);
}

void pieces_clear(pieces *pieces)
{
    while (pieces->oldest)
        drop_oldest(pieces);
}

/* --- unpacking --- */

static uint32_t little32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint64_t little64(const uint8_t *at)
{
    return little32(at) | (uint64_t)little32(at + 4) << 32;
}

static bool unpack(reader *reader, int archive, const entry *file, uint64_t at, size_t length, size_t size)
{
    if (!area_grow(&reader->plain, size))
        return false;
    if (!(file->flags & DEFLATED))
        return length == size && read_whole(archive, reader->plain.bytes, size, at);
    if (!area_grow(&reader->packed, length + END_ROOM) || !read_whole(archive, reader->packed.bytes, length, at))
        return false;
    if (!reader->engine && !(reader->engine = engine_new()))
        return false;
    memcpy(reader->packed.bytes + length, "\x03", END_ROOM); /* a final empty block */
    return engine_inflate(reader->engine, reader->packed.bytes, length + END_ROOM, reader->plain.bytes, size);
}

/* A file of one piece, in reader->plain. */
static bool whole(reader *reader, int archive, const entry *file)
{
    return file->packed <= file->size + MOST_OVERHEAD &&
           unpack(reader, archive, file, file->data, (size_t)file->packed, (size_t)file->size) &&
           engine_crc32(reader->plain.bytes, (size_t)file->size) == file->crc;
}

/* Where chunks first..last lie in the packed data, and, into reader->table, their CRCs. */
static bool rows(reader *reader, int archive, const entry *file, uint64_t first, uint64_t last, uint64_t *at,
                 uint64_t *stop)
{
    uint64_t count = (file->size + file->chunk - 1) / file->chunk, wanted = last - first + 1;
    if (!area_grow(&reader->table, (size_t)wanted * 4) ||
        !read_whole(archive, reader->table.bytes, (size_t)wanted * 4, file->index + TABLE_HEAD + 4 * first))
        return false;
    *at = first * file->chunk;
    *stop = last + 1 == count ? file->size : (last + 1) * file->chunk;
    if (!(file->flags & DEFLATED))
        return *stop <= file->packed;
    uint8_t offset[8];
    uint64_t offsets = file->index + TABLE_HEAD + 4 * count;
    *at = 0;
    *stop = file->packed;
    if (first) {
        if (!read_whole(archive, offset, 8, offsets + 8 * (first - 1)))
            return false;
        *at = little64(offset);
    }
    if (last + 1 < count) {
        if (!read_whole(archive, offset, 8, offsets + 8 * last))
            return false;
        *stop = little64(offset);
    }
    return *at < *stop && *stop <= file->packed && *stop - *at <= 2 * wanted * file->chunk + MOST_OVERHEAD;
}

/* Chunks first..last, one behind the other, in reader->plain. */
static bool chunks(reader *reader, int archive, const entry *file, uint64_t first, uint64_t last)
{
    uint64_t at, stop, end = (last + 1) * file->chunk;
    size_t size = (size_t)((end < file->size ? end : file->size) - first * file->chunk);
    if (!rows(reader, archive, file, first, last, &at, &stop) ||
        !unpack(reader, archive, file, file->data + at, (size_t)(stop - at), size))
        return false;
    for (size_t i = 0, done = 0; done < size; i++) {
        size_t part = size - done < file->chunk ? size - done : file->chunk;
        if (engine_crc32(reader->plain.bytes + done, part) != little32(reader->table.bytes + 4 * i))
            return false;
        done += part;
    }
    return true;
}

const uint8_t *data_read(reader *reader, int archive, pieces *pieces, const entry *file, uint64_t offset, size_t size)
{
    uint64_t unit = file->chunk ? file->chunk : file->size;
    uint64_t first = offset / unit, last = (offset + size - 1) / unit, start = first * unit;
    if (unit > MOST_AT_ONCE || (last - first + 1) * unit > MOST_AT_ONCE)
        return NULL;
    size_t length = (size_t)(file->size - start < unit ? file->size - start : unit);
    /* Whoever wants a part of what must be unpacked whole soon wants the next. */
    bool part = first == last && size < length && (file->flags & DEFLATED || !file->chunk);
    data_release(reader, pieces);
    if (part && (reader->held = find_piece(pieces, file->data, first)) && reader->held->size == length)
        return reader->held->bytes + (offset - start);
    if (!(file->chunk ? chunks(reader, archive, file, first, last) : whole(reader, archive, file)))
        return NULL;
    if (part)
        keep_piece(pieces, file->data, first, reader->plain.bytes, length);
    return reader->plain.bytes + (offset - start);
}
