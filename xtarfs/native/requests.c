/* One request after the other: what is known here is answered here, all else by Python. */

#include "request.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PREFETCH_LEAD = 8, /* files */
    QUICK = 64 << 10,  /* bytes that are unpacked in less time than it takes to wake another thread */
};

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
        node_count(found);
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
    const char *name = request_name(worker, 0, &length);
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
    bool unknown = !about->entry.mode; /* the root, which nobody looks up */
    if (unknown || worker->session->appearance.changes) {
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
    const struct fuse_read_in *in = request_body(worker, sizeof *in);
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
    if (size > QUICK)
        may_take_long();
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
    if (!error && got < size && !session->appearance.changes)
        error = EIO; /* the kernel would show zeros, or a shorter file */
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
    const struct fuse_getxattr_in *in = request_body(worker, sizeof *in);
    size_t length, size = 0;
    const char *name = request_name(worker, sizeof *in, &length);
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
    const struct fuse_getxattr_in *in = request_body(worker, sizeof *in);
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

/* --- the beginning --- */

static void init(worker *worker)
{
    const struct fuse_init_in *in = request_body(worker, 16);
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
        .max_pages = (uint16_t)(MAX_TRANSFER / sysconf(_SC_PAGESIZE)),
    };
    answer(worker, &out, sizeof out);
}

/* Whether -o allow_root keeps this user out. The kernel itself knows only everybody or nobody. */
static bool kept_out(const worker *worker)
{
    int64_t owner = worker->session->appearance.owner, user = request_header(worker)->uid;
    return owner >= 0 && user && user != owner && request_header(worker)->opcode != FUSE_READ;
}

/* ENOSYS: the kernel opens folders without us from then on, and keeps their listings. */
static void opendir_(worker *worker)
{
    struct fuse_open_out out = {0};
    if (kept_out(worker))
        fail(worker, EACCES);
    else if (worker->session->appearance.changes)
        answer(worker, &out, sizeof out);
    else
        fail(worker, ENOSYS);
}

static void forget_one(worker *worker)
{
    const struct fuse_forget_in *in = request_body(worker, sizeof *in);
    if (in)
        forget(worker->session, request_header(worker)->nodeid, in->nlookup);
}

static void forget_many(worker *worker)
{
    const struct fuse_batch_forget_in *in = request_body(worker, sizeof *in);
    if (!in || !request_body(worker, sizeof *in + (size_t)in->count * sizeof(struct fuse_forget_one)))
        return;
    const struct fuse_forget_one *each = (const struct fuse_forget_one *)(in + 1);
    pthread_mutex_lock(&worker->session->table.lock);
    for (uint32_t i = 0; i < in->count; i++)
        table_forget(&worker->session->table, each[i].nodeid, each[i].nlookup);
    pthread_mutex_unlock(&worker->session->table.lock);
    table_trim(&worker->session->table);
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
    switch (request_header(worker)->opcode) {
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
        list(worker, &about, request_header(worker)->opcode == FUSE_READDIRPLUS);
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
    if (length < sizeof(struct fuse_in_header) || request_header(worker)->len != length)
        return;
    switch (request_header(worker)->opcode) {
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
