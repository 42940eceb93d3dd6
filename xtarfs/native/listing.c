/* Directories: names with their attributes, so that nobody has to ask for each. */

#include "request.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

/* A reply to READDIR or READDIRPLUS as it fills. */
typedef struct {
    worker *worker;
    uint64_t directory, next; /* next: the offset of the next entry: 0 ".", 1 "..", child i is i + 2 */
    size_t used, room;
    bool plus, full;
} listing;

static bool put(listing *into, uint64_t id, const entry *child, const char *name, size_t length)
{
    struct fuse_dirent dirent = {
        .ino = child->ino,
        .off = into->next + 1,
        .namelen = (uint32_t)length,
        .type = (child->mode & S_IFMT) >> 12,
    };
    uint8_t *at = into->worker->reply.bytes + into->used;
    if (into->plus) {
        struct fuse_entry_out out = {0};
        if (id)
            fill_entry(into->worker->session, id, child, &out);
        memcpy(at, &out, sizeof out);
        at += sizeof out;
    }
    memcpy(at, &dirent, FUSE_NAME_OFFSET);
    memcpy(at + FUSE_NAME_OFFSET, name, length);
    size_t size = FUSE_NAME_OFFSET + length;
    memset(at + size, 0, FUSE_DIRENT_ALIGN(size) - size);
    into->used += FUSE_DIRENT_ALIGN(size) + (into->plus ? sizeof(struct fuse_entry_out) : 0);
    into->next++;
    return true;
}

static bool has_room(listing *into, size_t length)
{
    size_t size = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + length) + (into->plus ? sizeof(struct fuse_entry_out) : 0);
    into->full = into->room - into->used < size;
    return !into->full;
}

static bool put_child(listing *into, const entry *child, const char *name, const char *target)
{
    if (!has_room(into, child->name_length))
        return false;
    uint64_t id = 0;
    if (into->plus && !(id = enlist(into->worker->session, into->directory, child, name, target))) {
        into->full = true;
        return false;
    }
    return put(into, id, child, name, child->name_length);
}

static bool put_python_child(void *context, const entry *child, const char *name)
{
    return put_child(context, child, name, NULL);
}

/* "." and "..", by number only. */
static void put_dots(listing *into, const subject *about)
{
    table *table = &into->worker->session->table;
    pthread_mutex_lock(&table->lock);
    const node *found = table_get(table, about->id);
    entry parent = found && found->parent ? found->parent->entry : about->entry;
    pthread_mutex_unlock(&table->lock);
    if (into->next == 0 && has_room(into, 1))
        put(into, 0, &about->entry, ".", 1);
    if (into->next == 1 && has_room(into, 2))
        put(into, 0, &parent, "..", 2);
}

/* False where Python must be asked for the children that come now. */
static bool put_children(listing *into, const entry *directory)
{
    shelf *shelf = &into->worker->session->shelf;
    while (!into->full) {
        bool end;
        if (into->next - 2 > UINT32_MAX)
            return true;
        uint32_t position = (uint32_t)(into->next - 2);
        block *names = shelf_at(shelf, directory, position, &end);
        if (!names)
            return end;
        for (size_t i = position - names->first; i < names->count; i++) {
            entry child = names->rows[i].entry;
            const char *name = names->text + names->rows[i].name;
            child.position = names->first + (uint32_t)i;
            if (!put_child(into, &child, name, name + child.name_length))
                break;
        }
        shelf_give_back(shelf, names);
    }
    return true;
}

/* Takes back what a reply said that never arrived. */
static void forget_listed(const listing *from)
{
    for (size_t at = 0; at < from->used;) {
        struct fuse_direntplus each;
        memcpy(&each, from->worker->reply.bytes + at, sizeof each);
        if (each.entry_out.nodeid)
            forget(from->worker->session, each.entry_out.nodeid, 1);
        at += FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + each.dirent.namelen);
    }
}

void list(worker *worker, subject *about, bool plus)
{
    const struct fuse_read_in *in = request_body(worker, sizeof *in);
    if (!in || in->size > MAX_TRANSFER || !area_grow(&worker->reply, in->size + 8)) {
        fail(worker, in ? ENOMEM : EINVAL);
        return;
    }
    listing filling = {.worker = worker, .directory = about->id, .next = in->offset, .room = in->size, .plus = plus};
    uint64_t first = in->offset < 2 ? 2 : in->offset;
    int error = 0;
    if (filling.next < 2)
        put_dots(&filling, about);
    bool ask_python = about->entry.flags & ASK_CHILDREN;
    if (!ask_python && !filling.full && !put_children(&filling, &about->entry)) {
        leave_to_python(worker, about->id);
        ask_python = true;
    }
    if (ask_python && !filling.full) {
        question asked;
        error = ask(worker, about, NULL, 0, &asked)
                    ? python_readdir(&asked, filling.next - 2, filling.room - filling.used, put_python_child, &filling)
                    : ENOMEM;
    }
    if (!error && filling.full && !filling.used)
        error = ENOMEM; /* an empty answer would say that there is no more */
    if (error && filling.next <= first)
        fail(worker, error);
    else if (!answer(worker, worker->reply.bytes, filling.used) && plus)
        forget_listed(&filling);
}
