/* Structure files, block by block: read, checked, decoded, and kept while there is room. */

#include "native.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    HEAD = 20,
    TAIL = 8,
    MOST_TEXT = (64 << 10) + (1 << 20), /* Python takes longer lines */
    MOST_PACKED = 1 << 20,
    SHELF_ROOM = 6 << 20, /* bytes of decoded rows */
    MOST_LAYOUTS = 256,
    AHEAD = 128 << 10,
};

bool read_whole(int archive, void *into, size_t size, uint64_t at)
{
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

static int compare(const char *a, size_t a_length, const char *b, size_t b_length)
{
    int order = memcmp(a, b, a_length < b_length ? a_length : b_length);
    return order ? order : (a_length > b_length) - (a_length < b_length);
}

/* Whether a row may follow those before: names ascend, and directories lie side by side. */
static bool fits(block *into, const text *names, const row *made)
{
    if (into->count) {
        const row *last = &into->rows[into->count - 1];
        if (compare(names->bytes + last->name, last->entry.name_length, names->bytes + made->name,
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

/* One request to the medium brings the neighbours too. */
static void read_ahead(shelf *shelf, uint64_t at)
{
    uint64_t window = at / AHEAD * AHEAD + 1;
    if (atomic_exchange(&shelf->ahead, window) != window)
        posix_fadvise(shelf->archive, (off_t)(window - 1), AHEAD, POSIX_FADV_WILLNEED);
}

static char *load_text(shelf *shelf, uint64_t at, uint64_t length, size_t *size)
{
    if (length > MOST_PACKED || at > shelf->size || length > shelf->size - at)
        return NULL;
    read_ahead(shelf, at);
    uint8_t *packed = malloc(length);
    char *plain = packed && read_whole(shelf->archive, packed, length, at) ? block_unpack(packed, length, size) : NULL;
    free(packed);
    return plain;
}

static size_t spread(uint64_t structure, size_t number)
{
    return (size_t)((structure + number) * 0x9E3779B97F4A7C15ull >> 48);
}

static void layout_free(layout *layout)
{
    free(layout->starts);
    free(layout->firsts);
    free(layout->tars_end);
    free(layout->names.bytes);
    free(layout);
}

/* Numbers the children over all blocks, and refuses an index that does not follow the rules. */
static bool number_children(layout *layout, uint64_t index_at)
{
    uint64_t position = 0;
    layout->firsts = malloc(layout->blocks * sizeof *layout->firsts);
    layout->tars_end = calloc(layout->blocks, sizeof *layout->tars_end);
    if (!layout->firsts || !layout->tars_end)
        return false;
    for (size_t i = 0; i < layout->blocks; i++) {
        const block_start *start = &layout->starts[i];
        if (!start->count || start->count > UINT32_MAX - position || start->at > index_at ||
            start->length > index_at - start->at)
            return false;
        if (i && compare(layout->names.bytes + start[-1].first, start[-1].first_length,
                         layout->names.bytes + start->first, start->first_length) >= 0)
            return false;
        layout->firsts[i] = (uint32_t)position;
        position += start->count;
    }
    return true;
}

static layout *load_layout(shelf *shelf, const entry *directory)
{
    layout *made = calloc(1, sizeof *made);
    if (!made)
        return NULL;
    made->structure = directory->structure;
    made->blocks = 1;
    if (!directory->index_length)
        return made;
    size_t size, header_size;
    uint64_t index_at = directory->structure_size - directory->index_length;
    char *plain = load_text(shelf, directory->structure + index_at, directory->index_length, &size);
    bool sound = plain && index_parse(plain, plain + size, &made->starts, &made->blocks, &made->names) &&
                 number_children(made, index_at);
    free(plain);
    char *header = sound ? load_text(shelf, directory->structure, made->starts[0].at, &header_size) : NULL;
    const char *at = header;
    sound = header && header_parse(&at, header + header_size) && at == header + header_size;
    free(header);
    if (sound)
        return made;
    layout_free(made);
    return NULL;
}

/* A directory's layout, loaded if need be; with the shelf locked on return where it succeeds. */
static const layout *locked_layout(shelf *shelf, const entry *directory)
{
    layout **bucket = &shelf->layouts[spread(directory->structure, 0) % 256];
    pthread_mutex_lock(&shelf->lock);
    for (layout *each = *bucket; each; each = each->next)
        if (each->structure == directory->structure)
            return each;
    pthread_mutex_unlock(&shelf->lock);
    layout *made = load_layout(shelf, directory);
    if (!made)
        return NULL;
    pthread_mutex_lock(&shelf->lock);
    for (layout *each = *bucket; each; each = each->next)
        if (each->structure == directory->structure) {
            layout_free(made);
            return each;
        }
    if (shelf->layout_count >= MOST_LAYOUTS)
        for (size_t i = 0; i < 256; i++)
            for (layout *each = shelf->layouts[i], *next; each; each = next) {
                next = each->next;
                layout_free(each);
                shelf->layouts[i] = NULL;
                shelf->layout_count = 0;
            }
    made->next = *bucket;
    *bucket = made;
    shelf->layout_count++;
    return made;
}


static void unlink_block(shelf *shelf, block *block)
{
    *(block->newer ? &block->newer->older : &shelf->newest) = block->older;
    *(block->older ? &block->older->newer : &shelf->oldest) = block->newer;
    block->newer = block->older = NULL;
}

static void put_first(shelf *shelf, block *block)
{
    block->older = shelf->newest;
    *(shelf->newest ? &shelf->newest->newer : &shelf->oldest) = block;
    shelf->newest = block;
}

static void drop_oldest(shelf *shelf)
{
    block *oldest = shelf->oldest, **link = &shelf->buckets[spread(oldest->structure, oldest->number) % 1024];
    while (*link != oldest)
        link = &(*link)->next;
    *link = oldest->next;
    unlink_block(shelf, oldest);
    shelf->weight -= oldest->weight;
    if (!--oldest->users)
        block_free(oldest);
}

/* The shelf itself is one of a block's users. */
static block *find_block(shelf *shelf, uint64_t structure, size_t number)
{
    block *found = shelf->buckets[spread(structure, number) % 1024];
    while (found && (found->structure != structure || found->number != number))
        found = found->next;
    if (!found)
        return NULL;
    unlink_block(shelf, found);
    put_first(shelf, found);
    found->users++;
    return found;
}

static block *load_block(shelf *shelf, const entry *directory, const block_start *start)
{
    size_t size;
    uint64_t at = directory->structure + (start ? start->at : 0);
    char *plain = load_text(shelf, at, start ? start->length : directory->structure_size, &size);
    origin origin = {directory->start, directory->length, shelf->catalogue};
    block *made = plain ? block_parse(plain, plain + size, !start, &origin) : NULL;
    free(plain);
    if (made && start && made->count != start->count) {
        block_free(made);
        return NULL;
    }
    return made;
}

static block *keep_block(shelf *shelf, block *made)
{
    block *other = find_block(shelf, made->structure, made->number);
    if (other) {
        block_free(made);
        return other;
    }
    block **bucket = &shelf->buckets[spread(made->structure, made->number) % 1024];
    made->next = *bucket;
    *bucket = made;
    made->users = 2;
    put_first(shelf, made);
    shelf->weight += made->weight;
    while (shelf->weight > SHELF_ROOM && shelf->oldest != made)
        drop_oldest(shelf);
    return made;
}

/* Called with the shelf locked, unlocks it. */
static block *take_block(shelf *shelf, const entry *directory, const layout *layout, size_t number)
{
    block *found = find_block(shelf, directory->structure, number);
    if (found) {
        pthread_mutex_unlock(&shelf->lock);
        return found;
    }
    block_start start = layout->starts ? layout->starts[number] : (block_start){0};
    bool single = !layout->starts;
    uint32_t first = single ? 0 : layout->firsts[number];
    uint64_t tars_end = single || !number ? 0 : layout->tars_end[number - 1];
    pthread_mutex_unlock(&shelf->lock);
    block *made = load_block(shelf, directory, single ? NULL : &start);
    if (made && made->tars_begin && made->tars_begin < tars_end) {
        block_free(made);
        made = NULL;
    }
    if (!made)
        return NULL;
    made->structure = directory->structure;
    made->number = number;
    made->first = first;
    if (!single) {
        const struct layout *again = locked_layout(shelf, directory);
        if (!again) {
            block_free(made);
            return NULL;
        }
        if (number < again->blocks)
            ((struct layout *)again)->tars_end[number] = made->tars_end > tars_end ? made->tars_end : tars_end;
    } else {
        pthread_mutex_lock(&shelf->lock);
    }
    made = keep_block(shelf, made);
    pthread_mutex_unlock(&shelf->lock);
    return made;
}

block *shelf_at(shelf *shelf, const entry *directory, uint32_t position, bool *end)
{
    *end = false;
    const layout *layout = locked_layout(shelf, directory);
    if (!layout)
        return NULL;
    size_t low = 0, high = layout->starts ? layout->blocks : 1;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (layout->firsts[middle] <= position)
            low = middle;
        else
            high = middle;
    }
    bool last = low + 1 == layout->blocks;
    block *found = take_block(shelf, directory, layout, low);
    if (found && last && position >= found->first + found->count) {
        *end = true;
        shelf_give_back(shelf, found);
        return NULL;
    }
    return found;
}

block *shelf_named(shelf *shelf, const entry *directory, const char *name, size_t length)
{
    const layout *layout = locked_layout(shelf, directory);
    if (!layout)
        return NULL;
    size_t low = 0, high = layout->starts ? layout->blocks : 1;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        const block_start *start = &layout->starts[middle];
        if (compare(layout->names.bytes + start->first, start->first_length, name, length) <= 0)
            low = middle;
        else
            high = middle;
    }
    return take_block(shelf, directory, layout, low);
}

void shelf_give_back(shelf *shelf, block *block)
{
    pthread_mutex_lock(&shelf->lock);
    if (!--block->users)
        block_free(block);
    pthread_mutex_unlock(&shelf->lock);
}

const row *block_find(const block *block, const char *name, size_t length)
{
    size_t low = 0, high = block->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const row *at = &block->rows[middle];
        int order = compare(block->text + at->name, at->entry.name_length, name, length);
        if (!order)
            return at;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

void shelf_init(shelf *shelf, int archive, uint64_t size, uint64_t catalogue)
{
    memset(shelf, 0, sizeof *shelf);
    shelf->archive = archive;
    shelf->size = size;
    shelf->catalogue = catalogue;
    pthread_mutex_init(&shelf->lock, NULL);
}

void shelf_clear(shelf *shelf)
{
    while (shelf->oldest)
        drop_oldest(shelf);
    for (size_t i = 0; i < 256; i++)
        for (layout *each = shelf->layouts[i], *next; each; each = next) {
            next = each->next;
            layout_free(each);
        }
}
