/* The names that the kernel knows, by node number and by place in the tree. */

#include "native.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

enum { TRIMMED = 20000 }; /* names below which memory is not worth the trouble */

static size_t hash(const node *parent, const char *name, size_t length)
{
    uint64_t value = 14695981039346656037ull ^ parent->id;
    for (size_t i = 0; i < length; i++)
        value = (value ^ (uint8_t)name[i]) * 1099511628211ull;
    return (size_t)(value ^ value >> 32);
}

static node **bucket_of(table *table, const node *parent, const char *name, size_t length)
{
    return &table->buckets[hash(parent, name, length) & (table->bucket_count - 1)];
}

static bool make_room(void **items, size_t *room, size_t count, size_t item)
{
    if (count < *room)
        return true;
    size_t more = *room ? *room * 2 : 256;
    void *grown = realloc(*items, more * item);
    if (!grown)
        return false;
    *items = grown;
    *room = more;
    return true;
}

static void rehash(table *table)
{
    size_t count = table->bucket_count * 2;
    node **buckets = calloc(count, sizeof *buckets);
    if (!buckets)
        return; /* longer chains, the same answers */
    for (size_t i = 0; i < table->bucket_count; i++) {
        for (node *each = table->buckets[i], *next; each; each = next) {
            next = each->next;
            node **bucket = &buckets[hash(each->parent, each->name, each->entry.name_length) & (count - 1)];
            each->next = *bucket;
            *bucket = each;
        }
    }
    free(table->buckets);
    table->buckets = buckets;
    table->bucket_count = count;
}

static node *new_node(table *table, const entry *entry, const char *name, const char *target)
{
    node *made = malloc(sizeof *made + entry->name_length + entry->target_length);
    if (!made)
        return NULL;
    memset(made, 0, sizeof *made);
    made->entry = *entry;
    if (entry->name_length)
        memcpy(made->name, name, entry->name_length);
    if (entry->target_length)
        memcpy(made->name + entry->name_length, target, entry->target_length);
    if (table->vacant_count) {
        made->id = table->vacant[--table->vacant_count];
    } else {
        /* A vacant number has room to be noted before it is given out, so that forgetting never needs memory. */
        if (table->slot_count == UINT32_MAX ||
            !make_room((void **)&table->slots, &table->slot_room, table->slot_count, sizeof *table->slots) ||
            !make_room((void **)&table->vacant, &table->vacant_room, table->slot_count, sizeof *table->vacant)) {
            free(made);
            return NULL;
        }
        made->id = (uint32_t)++table->slot_count;
    }
    table->slots[made->id - 1] = made;
    return made;
}

bool table_init(table *table)
{
    memset(table, 0, sizeof *table);
    pthread_mutex_init(&table->lock, NULL);
    table->bucket_count = 1024;
    table->buckets = calloc(table->bucket_count, sizeof *table->buckets);
    entry root = {.mode = 0, .flags = ASK_CHILDREN | ASK_XATTRS};
    table->root = table->buckets ? new_node(table, &root, NULL, NULL) : NULL;
    if (table->root)
        table->root->pins = 1;
    return table->root != NULL;
}

void table_clear(table *table)
{
    for (size_t i = 0; i < table->slot_count; i++)
        free(table->slots[i]);
    free(table->slots);
    free(table->vacant);
    free(table->buckets);
    memset(table, 0, sizeof *table);
}

node *table_get(table *table, uint64_t id)
{
    return id && id <= table->slot_count ? table->slots[id - 1] : NULL;
}

node *table_find(table *table, const node *parent, const char *name, size_t length)
{
    node *found = *bucket_of(table, parent, name, length);
    while (found &&
           (found->parent != parent || found->entry.name_length != length || memcmp(found->name, name, length)))
        found = found->next;
    return found;
}

node *table_add(table *table, node *parent, const entry *entry, const char *name, const char *target)
{
    node *found = table_find(table, parent, name, entry->name_length);
    if (found)
        return found;
    if (table->node_count >= table->bucket_count)
        rehash(table);
    node *made = new_node(table, entry, name, target);
    if (!made)
        return NULL;
    made->parent = parent;
    parent->children++;
    node **bucket = bucket_of(table, parent, name, entry->name_length);
    made->next = *bucket;
    *bucket = made;
    if (++table->node_count > table->peak)
        table->peak = table->node_count;
    return made;
}

void node_count(node *node)
{
    /* Where names are not kept each look counts, for months; at its end the count is given back as a whole. */
    if (node->lookups < UINT32_MAX)
        node->lookups++;
}

void node_update(node *node, const entry *from)
{
    entry *kept = &node->entry;
    kept->ino = from->ino;
    kept->size = from->size;
    kept->blocks = from->blocks;
    kept->mtime = from->mtime;
    kept->mtime_nsec = from->mtime_nsec;
    kept->nlink = from->nlink;
    kept->uid = from->uid;
    kept->gid = from->gid;
    kept->rdev = from->rdev;
    kept->mode = from->mode;
}

static void drop_unused(table *table, node *unused)
{
    while (unused && unused->parent && !unused->lookups && !unused->children && !unused->pins) {
        node *parent = unused->parent;
        node **link = bucket_of(table, parent, unused->name, unused->entry.name_length);
        while (*link != unused)
            link = &(*link)->next;
        *link = unused->next;
        table->slots[unused->id - 1] = NULL;
        table->vacant[table->vacant_count++] = unused->id;
        table->node_count--;
        free(unused);
        parent->children--;
        unused = parent;
    }
}

void table_forget(table *table, uint64_t id, uint64_t lookups)
{
    node *known = table_get(table, id);
    if (!known)
        return;
    known->lookups -= lookups < known->lookups ? (uint32_t)lookups : known->lookups;
    drop_unused(table, known);
}

void table_trim(table *table)
{
    pthread_mutex_lock(&table->lock);
    bool trim = table->peak > TRIMMED && table->node_count < table->peak / 2;
    if (trim)
        table->peak = table->node_count;
    pthread_mutex_unlock(&table->lock);
    if (trim)
        malloc_trim(0);
}

void table_unpin(table *table, node *node)
{
    node->pins--;
    drop_unused(table, node);
}

char *table_path(const node *node, const char *name, size_t name_length, size_t *length)
{
    size_t total = name ? name_length + 1 : 0;
    for (const struct node *each = node; each->parent; each = each->parent)
        total += (size_t)each->entry.name_length + 1;
    *length = total ? total : 1;
    char *path = malloc(*length);
    if (!path)
        return NULL;
    path[0] = '/';
    char *at = path + total;
    if (name) {
        at -= name_length;
        memcpy(at, name, name_length);
        *--at = '/';
    }
    for (const struct node *each = node; each->parent; each = each->parent) {
        at -= each->entry.name_length;
        memcpy(at, each->name, each->entry.name_length);
        *--at = '/';
    }
    return path;
}
