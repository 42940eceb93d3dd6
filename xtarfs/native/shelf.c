/* Structure files, block by block: read when they are wanted, and kept while there is room. */

#include "native.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

enum {
    MOST_PACKED = 1 << 20,
    SHELF_ROOM = 6 << 20, /* bytes of decoded rows */
    MOST_LAYOUTS = 256,
    MOST_LAYOUT_BLOCKS = 64 << 10, /* about 80 bytes each */
    AHEAD = 128 << 10,
};

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

static void drop_layouts(shelf *shelf)
{
    for (size_t i = 0; i < 256; i++) {
        for (layout *each = shelf->layouts[i], *next; each; each = next) {
            next = each->next;
            layout_free(each);
        }
        shelf->layouts[i] = NULL;
    }
    shelf->layout_count = shelf->layout_blocks = 0;
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
        if (i && name_compare(layout->names.bytes + start[-1].first, start[-1].first_length,
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
    made->start = directory->start;
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
        if (each->structure == directory->structure && each->start == directory->start)
            return each;
    pthread_mutex_unlock(&shelf->lock);
    layout *made = load_layout(shelf, directory);
    if (!made)
        return NULL;
    pthread_mutex_lock(&shelf->lock);
    for (layout *each = *bucket; each; each = each->next)
        if (each->structure == directory->structure && each->start == directory->start) {
            layout_free(made);
            return each;
        }
    if (shelf->layout_count >= MOST_LAYOUTS || shelf->layout_blocks + made->blocks > MOST_LAYOUT_BLOCKS)
        drop_layouts(shelf);
    made->next = *bucket;
    *bucket = made;
    shelf->layout_count++;
    shelf->layout_blocks += made->blocks;
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
static block *find_block(shelf *shelf, uint64_t start, uint64_t structure, size_t number)
{
    block *found = shelf->buckets[spread(structure, number) % 1024];
    while (found && (found->structure != structure || found->start != start || found->number != number))
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
    block *other = find_block(shelf, made->start, made->structure, made->number);
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
    block *found = find_block(shelf, directory->start, directory->structure, number);
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
    made->start = directory->start;
    made->structure = directory->structure;
    made->number = number;
    made->first = first;
    if (!single) {
        const struct layout *again = locked_layout(shelf, directory);
        if (!again) {
            block_free(made);
            return NULL;
        }
        if (again->tars_end && number < again->blocks)
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
    /* It may be of another layout: of a crafted directory at the same place, or of an archive that was changed. */
    if (found && (position < found->first || position - found->first >= found->count)) {
        *end = last && position >= found->first;
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
        if (name_compare(layout->names.bytes + start->first, start->first_length, name, length) <= 0)
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
    drop_layouts(shelf);
}
