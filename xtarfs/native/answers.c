/* What a request says, what its node is, and how it is answered. */

#include "request.h"

#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

const struct fuse_in_header *request_header(const worker *worker)
{
    return (const struct fuse_in_header *)worker->request;
}

const void *request_body(const worker *worker, size_t size)
{
    size_t head = sizeof(struct fuse_in_header);
    return request_header(worker)->len >= head + size ? worker->request + head : NULL;
}

const char *request_name(const worker *worker, size_t skip, size_t *length)
{
    size_t at = sizeof(struct fuse_in_header) + skip, end = request_header(worker)->len;
    if (at >= end)
        return NULL;
    const char *name = (const char *)worker->request + at;
    *length = strnlen(name, end - at);
    return *length && *length < end - at ? name : NULL;
}

/* --- replies --- */

static bool reply(worker *worker, int error, const void *data, size_t size)
{
    struct fuse_out_header out = {
        .len = (uint32_t)(sizeof out + size),
        .error = -error,
        .unique = request_header(worker)->unique,
    };
    struct iovec parts[2] = {{&out, sizeof out}, {(void *)data, size}};
    return writev(worker->device, parts, size ? 2 : 1) >= 0;
}

bool fail(worker *worker, int error)
{
    return reply(worker, error, NULL, 0);
}

bool answer(worker *worker, const void *data, size_t size)
{
    return reply(worker, 0, data, size);
}

void fill_attributes(const session *session, const entry *from, struct fuse_attr *into)
{
    const appearance *shown = &session->appearance;
    *into = (struct fuse_attr){
        .ino = from->ino,
        .size = from->size,
        .blocks = from->blocks,
        .atime = (uint64_t)from->mtime,
        .mtime = (uint64_t)from->mtime,
        .ctime = (uint64_t)from->mtime,
        .atimensec = from->mtime_nsec,
        .mtimensec = from->mtime_nsec,
        .ctimensec = from->mtime_nsec,
        .mode = from->mode & ~shown->umask,
        .nlink = from->nlink,
        .uid = shown->uid < 0 ? from->uid : (uint32_t)shown->uid,
        .gid = shown->gid < 0 ? from->gid : (uint32_t)shown->gid,
        .rdev = from->rdev,
    };
}

void fill_entry(const session *session, uint64_t id, const entry *from, struct fuse_entry_out *into)
{
    *into = (struct fuse_entry_out){
        .nodeid = id,
        .entry_valid = session->appearance.timeout,
        .attr_valid = session->appearance.timeout,
    };
    fill_attributes(session, from, &into->attr);
}

/* --- nodes --- */

bool find_subject(worker *worker, subject *into)
{
    table *table = &worker->session->table;
    memset(into, 0, sizeof *into);
    pthread_mutex_lock(&table->lock);
    const node *found = table_get(table, request_header(worker)->nodeid);
    if (found) {
        into->id = found->id;
        into->entry = found->entry;
    }
    pthread_mutex_unlock(&table->lock);
    return found != NULL;
}

bool ask(worker *worker, subject *about, const char *name, size_t length, question *into)
{
    table *table = &worker->session->table;
    pthread_mutex_lock(&table->lock);
    const node *found = table_get(table, about->id);
    free(about->path);
    about->path = found ? table_path(found, name, length, &about->path_length) : NULL;
    pthread_mutex_unlock(&table->lock);
    *into = (question){&worker->caller, worker->session->answers, about->path, about->path_length};
    return about->path != NULL;
}

void leave_to_python(worker *worker, uint64_t id)
{
    table *table = &worker->session->table;
    pthread_mutex_lock(&table->lock);
    node *found = table_get(table, id);
    if (found)
        found->entry.flags |= ASK_CHILDREN;
    pthread_mutex_unlock(&table->lock);
}

void forget(session *session, uint64_t id, uint64_t lookups)
{
    pthread_mutex_lock(&session->table.lock);
    table_forget(&session->table, id, lookups);
    pthread_mutex_unlock(&session->table.lock);
}

uint64_t enlist(session *session, uint64_t parent_id, const entry *child, const char *name, const char *target)
{
    table *table = &session->table;
    uint64_t id = 0;
    pthread_mutex_lock(&table->lock);
    node *parent = table_get(table, parent_id);
    node *made = parent ? table_add(table, parent, child, name, target) : NULL;
    if (made) {
        node_count(made);
        id = made->id;
        if (session->appearance.changes)
            node_update(made, child);
    }
    pthread_mutex_unlock(&table->lock);
    return id;
}
