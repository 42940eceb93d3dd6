/* Whoever reads a folder file by file wants the next ones soon, and they lie right behind in the archive. They are
   unpacked and put into the kernel's page cache unasked, which saves the request that each would have cost.

   Putting a page there waits while the kernel reads the same page through another request. Only one thread prefetches
   at a time, and only while another takes requests, so there is always one left to answer that one. */

#include "native.h"

#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>

enum {
    MOST_SIZE = 128 << 10, /* bytes of a file that is prefetched */
    FIRST_WINDOW = 16,     /* files at a time ... */
    LAST_WINDOW = 128,     /* ... growing to this many */
    BUDGET = 1 << 20,      /* bytes of content at a time */
    SKIPPED = 8,           /* files that a reader may leave out */
    ENOUGH = 2,            /* files in order before anything is prefetched */
};

/* Whether no file stands before `position` in its directory. */
static bool is_first_file(session *session, const entry *directory, uint32_t position)
{
    bool end, first = true;
    block *names = shelf_at(&session->shelf, directory, position, &end);
    if (!names)
        return false;
    for (uint32_t i = 0; first && i < position - names->first; i++)
        first = !S_ISREG(names->rows[i].entry.mode) || !names->rows[i].entry.size;
    first = first && !names->first;
    shelf_give_back(&session->shelf, names);
    return first;
}

/* Notes that the file at `position` is read; whether what follows is to be prefetched. */
static bool note(session *session, uint64_t parent, const entry *directory, uint32_t position)
{
    prefetcher *state = &session->prefetcher;
    progress *at = &state->directories[parent % PROGRESSES];
    bool follows;
    if (at->directory == parent) {
        follows = position >= at->last && position <= at->until + SKIPPED;
    } else {
        follows = is_first_file(session, directory, position);
        *at = (progress){.directory = parent, .window = FIRST_WINDOW / 2};
    }
    at->last = position;
    if (at->until <= position || !follows)
        at->until = position + 1;
    state->in_order = follows ? state->in_order + 1 : 0;
    if (state->in_order < ENOUGH || at->until > position + 1 + SKIPPED)
        return false;
    at->window = at->window * 2 < LAST_WINDOW ? at->window * 2 : LAST_WINDOW;
    return true;
}

bool prefetch_begin(session *session, uint64_t file)
{
    prefetcher *state = &session->prefetcher;
    if (pthread_mutex_trylock(&state->lock))
        return false;
    pthread_mutex_lock(&session->table.lock);
    const node *found = table_get(&session->table, file);
    bool known = found && found->parent && !(found->parent->entry.flags & ASK_CHILDREN);
    uint32_t position = 0;
    if (known) {
        state->parent = found->parent->id;
        state->directory = found->parent->entry;
        position = found->entry.position;
    }
    pthread_mutex_unlock(&session->table.lock);
    if (!known || !note(session, state->parent, &state->directory, position)) {
        pthread_mutex_unlock(&state->lock);
        return false;
    }
    progress *at = &state->directories[state->parent % PROGRESSES];
    state->position = at->until;
    state->end = at->until + at->window;
    state->budget = BUDGET;
    return true;
}

/* Gives the kernel a file's whole content. */
static bool store(const session *session, uint64_t id, const uint8_t *bytes, size_t size)
{
    struct fuse_notify_store_out out = {.nodeid = id, .size = (uint32_t)size};
    struct fuse_out_header header = {.len = (uint32_t)(sizeof header + sizeof out + size),
                                     .error = FUSE_NOTIFY_STORE};
    struct iovec parts[3] = {{&header, sizeof header}, {&out, sizeof out}, {(void *)bytes, size}};
    return may_take_long() && writev(session->device, parts, 3) >= 0;
}

/* The node of a child that the kernel knows; held until it is given back, so that its number stays its own. */
static node *hold(session *session, const char *name, const entry *child)
{
    table *table = &session->table;
    pthread_mutex_lock(&table->lock);
    const node *parent = table_get(table, session->prefetcher.parent);
    node *found = parent ? table_find(table, parent, name, child->name_length) : NULL;
    if (found && (!found->lookups || found->entry.data != child->data || found->entry.flags & ASK_DATA))
        found = NULL;
    if (found)
        found->pins++;
    pthread_mutex_unlock(&table->lock);
    return found;
}

static void give_back(session *session, node *held)
{
    pthread_mutex_lock(&session->table.lock);
    table_unpin(&session->table, held);
    pthread_mutex_unlock(&session->table.lock);
}

static bool wanted(const entry *child)
{
    return S_ISREG(child->mode) && !(child->flags & ASK_DATA) && child->size && child->size <= MOST_SIZE;
}

static void prefetch_file(session *session, const char *name, const entry *child)
{
    prefetcher *state = &session->prefetcher;
    node *held = hold(session, name, child);
    if (!held)
        return;
    const uint8_t *bytes =
        data_read(&state->reader, session->archive, &session->pieces, child, 0, (size_t)child->size);
    if (bytes)
        store(session, held->id, bytes, (size_t)child->size);
    data_release(&state->reader, &session->pieces);
    give_back(session, held);
    state->budget -= child->size < state->budget ? (size_t)child->size : state->budget;
}

void prefetch_run(session *session, uint32_t files)
{
    prefetcher *state = &session->prefetcher;
    while (files && state->position < state->end && state->budget && !session->stop) {
        bool end;
        block *names = shelf_at(&session->shelf, &state->directory, state->position, &end);
        if (!names)
            break;
        while (files && state->budget && state->position < state->end &&
               state->position < names->first + names->count) {
            const row *at = &names->rows[state->position++ - names->first];
            if (wanted(&at->entry)) {
                prefetch_file(session, names->text + at->name, &at->entry);
                files--;
            }
        }
        shelf_give_back(&session->shelf, names);
    }
}

void prefetch_end(session *session)
{
    prefetcher *state = &session->prefetcher;
    progress *at = &state->directories[state->parent % PROGRESSES];
    at->until = state->position;
    pthread_mutex_unlock(&state->lock);
}
