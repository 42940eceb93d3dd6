/* What the answers to requests share. */

#ifndef XTAR_REQUEST_H
#define XTAR_REQUEST_H

#include "native.h"

/* A request's node as it was when the request came, and its path where Python is asked. */
typedef struct {
    uint64_t id;
    entry entry;
    char *path;
    size_t path_length;
} subject;

const struct fuse_in_header *request_header(const worker *worker);
/* What stands behind a request's header; NULL if that is shorter than `size`. */
const void *request_body(const worker *worker, size_t size);
/* The NUL-ended name behind `skip` bytes of a request's body; NULL if there is none. */
const char *request_name(const worker *worker, size_t skip, size_t *length);

/* Both end a request; false where the kernel no longer waited for it. */
bool answer(worker *worker, const void *data, size_t size);
bool fail(worker *worker, int error);

void fill_attributes(const session *session, const entry *from, struct fuse_attr *into);
void fill_entry(const session *session, uint64_t id, const entry *from, struct fuse_entry_out *into);

/* The node that a request is about. False if there is none. */
bool find_subject(worker *worker, subject *into);
/* The question to Python about the node, or about a name below it. False without memory. */
bool ask(worker *worker, subject *about, const char *name, size_t length, question *into);
/* A directory that could not be decoded here is Python's from now on. */
void leave_to_python(worker *worker, uint64_t id);
/* The node number of a child that the kernel is told of, 0 without memory; and that it has been told in vain. */
uint64_t enlist(session *session, uint64_t parent_id, const entry *child, const char *name, const char *target);
void forget(session *session, uint64_t id, uint64_t lookups);

void list(worker *worker, subject *about, bool plus);

#endif
