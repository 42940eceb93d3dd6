/* One request after the other: what is known here is answered here, all else by Python. */

#include "native.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PREFETCH_LEAD = 8 }; /* files */

/* A request's node as it was when the request came, and its path where Python is asked. */
typedef struct {
    uint64_t id;
    entry entry;
    char *path;
    size_t path_length;
} subject;

static const struct fuse_in_header *header(const worker *worker)
{
    return (const struct fuse_in_header *)worker->request;
}

/* What stands behind a request's header; NULL if that is shorter than `size`. */
static const void *body(const worker *worker, size_t size)
{
    return header(worker)->len >= sizeof(struct fuse_in_header) + size ? worker->request + sizeof(struct fuse_in_header)
                                                                       : NULL;
}

/* The NUL-ended name behind `skip` bytes of a request's body. */
static const char *name_behind(const worker *worker, size_t skip, size_t *length)
{
    size_t at = sizeof(struct fuse_in_header) + skip, end = header(worker)->len;
    if (at >= end)
        return NULL;
    const char *name = (const char *)worker->request + at;
    *length = strnlen(name, end - at);
    return *length && *length < end - at ? name : NULL;
}

/* --- replies --- */

static bool reply_parts(worker *worker, uint64_t unique, int error, const void *data, size_t size)
{
    struct fuse_out_header out = {.len = (uint32_t)(sizeof out + size), .error = -error, .unique = unique};
    struct iovec parts[2] = {{&out, sizeof out}, {(void *)data, size}};
    return writev(worker->device, parts, size ? 2 : 1) >= 0;
}

bool reply_data(worker *worker, uint64_t unique, const void *data, size_t size)
{
    return reply_parts(worker, unique, 0, data, size);
}

bool reply_error(worker *worker, uint64_t unique, int error)
{
    return reply_parts(worker, unique, error, NULL, 0);
}

static bool fail(worker *worker, int error)
{
    return reply_error(worker, header(worker)->unique, error);
}

static bool answer(worker *worker, const void *data, size_t size)
{
    return reply_data(worker, header(worker)->unique, data, size);
}

static void fill_attributes(const session *session, const entry *from, struct fuse_attr *into)
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

static void fill_entry(const session *session, uint64_t id, const entry *from, struct fuse_entry_out *into)
{
    *into = (struct fuse_entry_out){
        .nodeid = id,
        .entry_valid = session->appearance.timeout,
        .attr_valid = session->appearance.timeout,
    };
    fill_attributes(session, from, &into->attr);
}

/* --- nodes --- */

static bool find_subject(worker *worker, subject *into)
{
    table *table = &worker->session->table;
    memset(into, 0, sizeof *into);
    pthread_mutex_lock(&table->lock);
    const node *found = table_get(table, header(worker)->nodeid);
    if (found) {
        into->id = found->id;
        into->entry = found->entry;
    }
    pthread_mutex_unlock(&table->lock);
    return found != NULL;
}

/* The question about the node, or about a name below it. False without memory. */
static bool ask(worker *worker, subject *about, const char *name, size_t length, question *into)
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

/* A directory that could not be decoded here is Python's from now on. */
static void leave_to_python(worker *worker, uint64_t id)
{
    table *table = &worker->session->table;
    pthread_mutex_lock(&table->lock);
    node *found = table_get(table, id);
    if (found)
        found->entry.flags |= ASK_CHILDREN;
    pthread_mutex_unlock(&table->lock);
}

static void forget(session *session, uint64_t id, uint64_t lookups)
{
    pthread_mutex_lock(&session->table.lock);
    table_forget(&session->table, id, lookups);
    pthread_mutex_unlock(&session->table.lock);
}

/* The node number of a child that the kernel is told of, 0 without memory. */
static uint64_t enlist(session *session, uint64_t parent_id, const entry *child, const char *name, const char *target)
{
    table *table = &session->table;
    uint64_t id = 0;
    pthread_mutex_lock(&table->lock);
    node *parent = table_get(table, parent_id);
    node *made = parent ? table_add(table, parent, child, name, target) : NULL;
    if (made) {
        made->lookups++;
        id = made->id;
        if (session->appearance.changes)
            node_update(made, child);
    }
    pthread_mutex_unlock(&table->lock);
    return id;
}

/* --- single requests --- */

static void answer_entry(worker *worker, const subject *parent, const entry *child, const char *name,
                         const char *target)
{
    struct fuse_entry_out out;
    uint64_t id = enlist(worker->session, parent->id, child, name, target);
    if (!id) {
        fail(worker, ENOMEM);
        return;
    }
    fill_entry(worker->session, id, child, &out);
    if (!answer(worker, &out, sizeof out))
        forget(worker->session, id, 1);
}

static void answer_absent(worker *worker, size_t name_length)
{
    struct fuse_entry_out out = {.entry_valid = worker->session->appearance.timeout};
    if (name_length > MAX_NAME)
        fail(worker, ENAMETOOLONG);
    else
        answer(worker, &out, sizeof out);
}

static bool known_entry(worker *worker, uint64_t parent_id, const char *name, size_t length, subject *into)
{
    table *table = &worker->session->table;
    pthread_mutex_lock(&table->lock);
    const node *parent = table_get(table, parent_id);
    node *found = parent ? table_find(table, parent, name, length) : NULL;
    if (found) {
        found->lookups++;
        into->id = found->id;
        into->entry = found->entry;
    }
    pthread_mutex_unlock(&table->lock);
    return found != NULL;
}

static void lookup_in_python(worker *worker, subject *parent, const char *name, size_t length)
{
    question asked;
    entry child;
    int error = ask(worker, parent, name, length, &asked) ? python_getattr(&asked, &child) : ENOMEM;
    if (error == ENOENT) {
        answer_absent(worker, length);
    } else if (error) {
        fail(worker, error);
    } else {
        child.name_length = (uint16_t)length;
        answer_entry(worker, parent, &child, name, NULL);
    }
}

static void lookup(worker *worker, subject *parent)
{
    session *session = worker->session;
    size_t length;
    const char *name = name_behind(worker, 0, &length);
    subject child;
    if (!name) {
        fail(worker, EINVAL);
        return;
    }
    if (!session->appearance.changes && known_entry(worker, parent->id, name, length, &child)) {
        struct fuse_entry_out out;
        fill_entry(session, child.id, &child.entry, &out);
        if (!answer(worker, &out, sizeof out))
            forget(session, child.id, 1);
        return;
    }
    block *names = NULL;
    if (!(parent->entry.flags & ASK_CHILDREN) && !(names = shelf_named(&session->shelf, &parent->entry, name, length)))
        leave_to_python(worker, parent->id);
    if (!names) {
        lookup_in_python(worker, parent, name, length);
        return;
    }
    const row *found = block_find(names, name, length);
    if (found) {
        entry made = found->entry;
        made.position = names->first + (uint32_t)(found - names->rows);
        answer_entry(worker, parent, &made, names->text + found->name, names->text + found->name + made.name_length);
    } else {
        answer_absent(worker, length);
    }
    shelf_give_back(&session->shelf, names);
}

static void getattr(worker *worker, subject *about)
{
    struct fuse_attr_out out = {.attr_valid = worker->session->appearance.timeout};
    if (!about->entry.mode || worker->session->appearance.changes) { /* without a mode: the root, which nobody looks up */
        question asked;
        entry fresh;
        int error = ask(worker, about, NULL, 0, &asked) ? python_getattr(&asked, &fresh) : ENOMEM;
        if (error) {
            fail(worker, error);
            return;
        }
        table *table = &worker->session->table;
        pthread_mutex_lock(&table->lock);
        node *found = table_get(table, about->id);
        if (found)
            node_update(found, &fresh);
        pthread_mutex_unlock(&table->lock);
        about->entry = fresh;
    }
    fill_attributes(worker->session, &about->entry, &out.attr);
    answer(worker, &out, sizeof out);
}

static void readlink_(worker *worker, subject *about)
{
    size_t size = about->entry.target_length;
    if (size) {
        table *table = &worker->session->table;
        bool sound = area_grow(&worker->answer, size);
        pthread_mutex_lock(&table->lock);
        const node *found = table_get(table, about->id);
        sound = sound && found && found->entry.target_length == size;
        if (sound)
            memcpy(worker->answer.bytes, found->name + found->entry.name_length, size);
        pthread_mutex_unlock(&table->lock);
        if (sound) {
            answer(worker, worker->answer.bytes, size);
            return;
        }
    }
    question asked;
    int error = ask(worker, about, NULL, 0, &asked) ? python_readlink(&asked, &worker->answer, &size) : ENOMEM;
    if (error)
        fail(worker, error);
    else
        answer(worker, worker->answer.bytes, size);
}

static void read_(worker *worker, subject *about)
{
    session *session = worker->session;
    const struct fuse_read_in *in = body(worker, sizeof *in);
    const entry *file = &about->entry;
    if (!in || in->size > MAX_TRANSFER || S_ISDIR(file->mode)) {
        fail(worker, in ? EISDIR : EINVAL);
        return;
    }
    if (in->offset >= file->size || !in->size) {
        answer(worker, NULL, 0);
        return;
    }
    size_t size = in->size < file->size - in->offset ? in->size : (size_t)(file->size - in->offset);
    if (!(file->flags & ASK_DATA)) {
        const uint8_t *bytes =
            data_read(&worker->reader, session->archive, &session->pieces, file, in->offset, size);
        if (bytes) {
            /* The first of the files that follow must be there before the reader goes on, or it would ask for them. */
            bool more = in->offset == 0 && size == file->size && prefetch_begin(session, about->id);
            if (more)
                prefetch_run(session, PREFETCH_LEAD);
            answer(worker, bytes, size);
            data_release(&worker->reader, &session->pieces);
            if (more) {
                prefetch_run(session, UINT32_MAX);
                prefetch_end(session);
            }
            return;
        }
    }
    question asked;
    size_t got = 0;
    int error = ask(worker, about, NULL, 0, &asked) ? python_read(&asked, in->offset, size, &worker->answer, &got)
                                                    : ENOMEM;
    if (error)
        fail(worker, error);
    else
        answer(worker, worker->answer.bytes, got);
}

static void answer_xattr(worker *worker, size_t wanted, size_t size)
{
    struct fuse_getxattr_out out = {.size = (uint32_t)size};
    if (!wanted)
        answer(worker, &out, sizeof out);
    else if (size > wanted)
        fail(worker, ERANGE);
    else
        answer(worker, worker->answer.bytes, size);
}

static void getxattr_(worker *worker, subject *about)
{
    static const char own[] = "user.xtar.";
    const struct fuse_getxattr_in *in = body(worker, sizeof *in);
    size_t length, size = 0;
    const char *name = name_behind(worker, sizeof *in, &length);
    question asked;
    if (!in || !name) {
        fail(worker, EINVAL);
        return;
    }
    if (!(about->entry.flags & ASK_XATTRS) && strncmp(name, own, sizeof own - 1)) {
        fail(worker, ENODATA);
        return;
    }
    int error = ask(worker, about, NULL, 0, &asked) ? python_getxattr(&asked, name, length, &worker->answer, &size)
                                                    : ENOMEM;
    if (error)
        fail(worker, error);
    else
        answer_xattr(worker, in->size, size);
}

static void listxattr_(worker *worker, subject *about)
{
    const struct fuse_getxattr_in *in = body(worker, sizeof *in);
    size_t size = 0;
    int error = in ? 0 : EINVAL;
    if (!error && about->entry.flags & ASK_XATTRS) {
        question asked;
        error = ask(worker, about, NULL, 0, &asked) ? python_listxattr(&asked, &worker->answer, &size) : ENOMEM;
    }
    if (error)
        fail(worker, error);
    else
        answer_xattr(worker, in->size, size);
}

static void statfs_(worker *worker)
{
    struct fuse_statfs_out out = {0};
    question asked = {&worker->caller, worker->session->answers, NULL, 0};
    int error = python_statfs(&asked, &out.st);
    if (error)
        fail(worker, error);
    else
        answer(worker, &out, sizeof out);
}

/* --- listing --- */

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
    if (into->plus && !(id = enlist(into->worker->session, into->directory, child, name, target)))
        return false;
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
            if (!put_child(into, &child, name, name + child.name_length)) {
                into->full = true;
                break;
            }
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

static void readdir_(worker *worker, subject *about, bool plus)
{
    const struct fuse_read_in *in = body(worker, sizeof *in);
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
    if (error && filling.next <= first)
        fail(worker, error);
    else if (!answer(worker, worker->reply.bytes, filling.used) && plus)
        forget_listed(&filling);
}

/* --- the beginning --- */

static void init(worker *worker)
{
    const struct fuse_init_in *in = body(worker, 16);
    if (!in || in->major < 7 || (in->major == 7 && in->minor < 23)) {
        fail(worker, EPROTO);
        return;
    }
    uint32_t wanted = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_DO_READDIRPLUS | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES |
                      FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT;
    if (!worker->session->appearance.changes)
        wanted |= FUSE_CACHE_SYMLINKS;
    struct fuse_init_out out = {
        .major = FUSE_KERNEL_VERSION,
        .minor = FUSE_KERNEL_MINOR_VERSION,
        .max_readahead = in->max_readahead,
        .flags = in->flags & wanted,
        .max_background = 64,
        .congestion_threshold = 48,
        .max_write = 4096,
        .time_gran = 1,
        .max_pages = MAX_TRANSFER / 4096,
    };
    answer(worker, &out, sizeof out);
}

/* ENOSYS: the kernel opens folders without us from then on, and keeps their listings. */
static void opendir_(worker *worker)
{
    struct fuse_open_out out = {0};
    if (worker->session->appearance.changes)
        answer(worker, &out, sizeof out);
    else
        fail(worker, ENOSYS);
}

static void forget_one(worker *worker)
{
    const struct fuse_forget_in *in = body(worker, sizeof *in);
    if (in)
        forget(worker->session, header(worker)->nodeid, in->nlookup);
}

static void forget_many(worker *worker)
{
    const struct fuse_batch_forget_in *in = body(worker, sizeof *in);
    if (!in || !body(worker, sizeof *in + (size_t)in->count * sizeof(struct fuse_forget_one)))
        return;
    const struct fuse_forget_one *each = (const struct fuse_forget_one *)(in + 1);
    pthread_mutex_lock(&worker->session->table.lock);
    for (uint32_t i = 0; i < in->count; i++)
        table_forget(&worker->session->table, each[i].nodeid, each[i].nlookup);
    pthread_mutex_unlock(&worker->session->table.lock);
    table_trim(&worker->session->table);
}

/* Whether -o allow_root keeps this user out. The kernel itself knows only everybody or nobody. */
static bool kept_out(const worker *worker)
{
    int64_t owner = worker->session->appearance.owner, user = header(worker)->uid;
    return owner >= 0 && user && user != owner && header(worker)->opcode != FUSE_READ;
}

static void handle_node(worker *worker)
{
    subject about;
    if (kept_out(worker)) {
        fail(worker, EACCES);
        return;
    }
    if (!find_subject(worker, &about)) {
        fail(worker, ENOENT);
        return;
    }
    switch (header(worker)->opcode) {
    case FUSE_LOOKUP:
        lookup(worker, &about);
        break;
    case FUSE_GETATTR:
        getattr(worker, &about);
        break;
    case FUSE_READLINK:
        readlink_(worker, &about);
        break;
    case FUSE_READ:
        read_(worker, &about);
        break;
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
        readdir_(worker, &about, header(worker)->opcode == FUSE_READDIRPLUS);
        break;
    case FUSE_GETXATTR:
        getxattr_(worker, &about);
        break;
    default:
        listxattr_(worker, &about);
    }
    free(about.path);
}

void handle(worker *worker, size_t length)
{
    if (length < sizeof(struct fuse_in_header) || header(worker)->len != length)
        return;
    switch (header(worker)->opcode) {
    case FUSE_LOOKUP:
    case FUSE_GETATTR:
    case FUSE_READLINK:
    case FUSE_READ:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
        handle_node(worker);
        break;
    case FUSE_FORGET:
        forget_one(worker);
        break;
    case FUSE_BATCH_FORGET:
        forget_many(worker);
        break;
    case FUSE_STATFS:
        statfs_(worker);
        break;
    case FUSE_INIT:
        init(worker);
        break;
    case FUSE_OPENDIR:
        opendir_(worker);
        break;
    case FUSE_RELEASEDIR:
    case FUSE_DESTROY:
        fail(worker, 0);
        break;
    case FUSE_SETATTR:
    case FUSE_SYMLINK:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_UNLINK:
    case FUSE_RMDIR:
    case FUSE_RENAME:
    case FUSE_RENAME2:
    case FUSE_LINK:
    case FUSE_WRITE:
    case FUSE_SETXATTR:
    case FUSE_REMOVEXATTR:
    case FUSE_CREATE:
    case FUSE_TMPFILE:
    case FUSE_FALLOCATE:
    case FUSE_COPY_FILE_RANGE:
        fail(worker, EROFS);
        break;
    default:
        /* The kernel then asks no more: it opens, closes and seeks without us, and interrupts nothing, since no answer
           takes long. */
        fail(worker, ENOSYS);
    }
}
