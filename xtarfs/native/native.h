/* The compiled request loop of a mount: what its parts know of each other.

   The loop speaks the protocol of /dev/fuse itself. It answers what it fully understands from the archive's own bytes,
   each of them checked, and asks the Python file system (python.c) for everything else. */

#ifndef XTAR_NATIVE_H
#define XTAR_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "json.h"

#include <linux/fuse.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* --- engine.c: raw deflate and CRC-32, of the library inside the Python package `deflate` --- */

typedef struct libdeflate_decompressor decompressor;

bool engine_load(const char *library);
decompressor *engine_new(void);
void engine_free(decompressor *engine);
bool engine_inflate(decompressor *engine, const uint8_t *packed, size_t length, uint8_t *out, size_t size);
uint32_t engine_crc32(const uint8_t *data, size_t size);

/* Bytes that must be free for writing behind packed data: a chunk that was only flushed gets its end there. */
enum { END_ROOM = 2 };

/* --- records.c: one line of a structure file --- */

enum {
    ASK_DATA = 1,     /* content: ask Python */
    ASK_CHILDREN = 2, /* a directory's children: ask Python */
    ASK_XATTRS = 4,   /* extended attributes: ask Python. Without it there are none */
    DEFLATED = 8,
};

enum { MAX_NAME = 255, MAX_TARGET = 4095 };

/* What is known of one name: 96 bytes of the memory that each costs. Places are offsets in the archive; a directory is
   given by its tar and structure file. */
typedef struct {
    uint64_t ino, size, blocks;
    int64_t mtime;
    union {
        struct {
            uint64_t data, packed, index;
            uint32_t chunk, crc;
        };
        struct {
            uint64_t start, length, structure;
            uint32_t structure_size, index_length;
        };
    };
    uint32_t mtime_nsec, nlink, uid, gid, rdev;
    uint32_t position; /* among its directory's children */
    uint16_t mode, name_length, target_length, flags;
} entry;

/* What the places in a directory's records count from: its tar, in which they must lie, and where the catalogue of all
   structure files begins; 0 where there is none. */
typedef struct {
    uint64_t start, length, catalogue;
} origin;

/* The line from *at up to its newline as an entry; its name, then its target, are appended to `names`.
   False: ask Python. */
bool record_parse(const char **at, const char *end, const origin *origin, entry *into, text *names);
/* A structure file's first line. */
bool header_parse(const char **at, const char *end);
typedef struct {
    uint64_t at, length, count;
    size_t first; /* offset of the name in the text given */
    uint16_t first_length;
} block_start;
/* A structure file's last line; *starts is allocated. */
bool index_parse(const char *at, const char *end, block_start **starts, size_t *count, text *names);

/* --- blocks.c, shelf.c: structure files, block by block --- */

typedef struct {
    entry entry;
    uint32_t name; /* offset in the block's text; the target stands behind it */
} row;

typedef struct block {
    struct block *newer, *older, *next;
    uint64_t start, structure; /* of the directory: a crafted archive may give two the same structure file */
    size_t number;
    uint32_t users, first; /* first: position of the first row among the directory's children */
    size_t count, weight;
    uint64_t tars_begin, tars_end; /* where the subdirectories' tars begin and end; 0 without any */
    row *rows;
    char *text;
} block;

typedef struct layout {
    struct layout *next;
    uint64_t start, structure;
    block_start *starts; /* NULL: one block with header and records */
    uint32_t *firsts;
    uint64_t *tars_end;
    size_t blocks;
    text names;
} layout;

typedef struct {
    int archive;
    uint64_t size, catalogue;
    atomic_ullong ahead; /* up to where the archive was last asked to be read ahead of need */
    pthread_mutex_t lock;
    block *buckets[1024];
    block *newest, *oldest;
    size_t weight;
    layout *layouts[256];
    size_t layout_count, layout_blocks;
} shelf;

void shelf_init(shelf *shelf, int archive, uint64_t size, uint64_t catalogue);
void shelf_clear(shelf *shelf);
/* The block that holds the child at `position`, or would hold `name` if that is given. A directory's entry must be
   whole. Give it back. NULL: ask Python, with *end telling whether it is only that `position` is behind the last. */
block *shelf_at(shelf *shelf, const entry *directory, uint32_t position, bool *end);
block *shelf_named(shelf *shelf, const entry *directory, const char *name, size_t length);
void shelf_give_back(shelf *shelf, block *block);
const row *block_find(const block *block, const char *name, size_t length);
/* A block of text as records; for tests too. */
block *block_parse(const char *at, const char *end, bool header, const origin *origin);
void block_free(block *block);
char *block_unpack(const uint8_t *packed, size_t length, size_t *size);

/* By the bytes of two names: below, at or above 0. */
int name_compare(const char *a, size_t a_length, const char *b, size_t b_length);
/* Exactly `size` bytes from the archive, or false. */
bool read_whole(int archive, void *into, size_t size, uint64_t at);

/* --- table.c: the names that the kernel knows --- */

/* Names below keep a node as they need its path. `pins` holds it while another thread works for it. */
typedef struct node {
    struct node *parent, *next;
    uint32_t id, lookups, children, pins;
    entry entry;
    char name[]; /* name_length bytes, then the target */
} node;

typedef struct {
    pthread_mutex_t lock;
    node **slots; /* by id - 1; a free slot holds nothing and is found by `vacant` */
    uint32_t *vacant;
    size_t slot_count, slot_room, vacant_count, vacant_room;
    node **buckets;
    size_t bucket_count, node_count, peak; /* peak: nodes since memory was last given back to the system */
    node *root;
} table;

bool table_init(table *table);
void table_clear(table *table);
/* All of these with the table locked. */
node *table_get(table *table, uint64_t id);
node *table_find(table *table, const node *parent, const char *name, size_t length);
node *table_add(table *table, node *parent, const entry *entry, const char *name, const char *target);
/* The kernel is told of the node once more. */
void node_count(node *node);
/* Takes over attributes that have changed. */
void node_update(node *node, const entry *entry);
void table_forget(table *table, uint64_t id, uint64_t lookups);
/* Gives memory back to the system once most names are forgotten; without the lock. */
void table_trim(table *table);
void table_unpin(table *table, node *node);
/* The path as Python knows it, `/` for the root; allocated, NULL without memory. */
char *table_path(const node *node, const char *name, size_t name_length, size_t *length);

/* --- data.c: content --- */

typedef struct piece {
    struct piece *newer, *older, *next;
    uint64_t data, number;
    uint32_t users;
    size_t size;
    uint8_t bytes[];
} piece;

typedef struct {
    pthread_mutex_t lock;
    piece *buckets[4096];
    piece *newest, *oldest;
    size_t weight, capacity;
} pieces;

void pieces_init(pieces *pieces, size_t capacity);
void pieces_clear(pieces *pieces);

/* Memory that a thread reuses from request to request. */
typedef struct {
    uint8_t *bytes;
    size_t room;
} area;

bool area_grow(area *area, size_t room);

typedef struct {
    decompressor *engine;
    area packed, plain, table;
    piece *held;
} reader;

/* Bytes [offset, offset + size) of a file, at least one, which must lie within it; valid until the reader's next call.
   NULL where they are not sound or not simple: ask Python. */
const uint8_t *data_read(reader *reader, int archive, pieces *pieces, const entry *file, uint64_t offset, size_t size);
void data_release(reader *reader, pieces *pieces);
void reader_clear(reader *reader);

/* --- python.c: the file system behind, called with the interpreter's lock --- */

/* A thread's place in the interpreter, made at its first call and kept: making one costs a fifth of a request. */
typedef struct {
    PyThreadState *state;
    PyGILState_STATE before;
} caller;

/* The object that answers, and the path asked for. */
typedef struct {
    caller *caller;
    PyObject *answers;
    const char *path;
    size_t length;
} question;

typedef bool take_child(void *context, const entry *child, const char *name);

/* Each returns 0 or an errno. */
int python_getattr(const question *question, entry *into);
int python_readlink(const question *question, area *into, size_t *size);
int python_getxattr(const question *question, const char *name, size_t length, area *into, size_t *size);
int python_listxattr(const question *question, area *into, size_t *size);
int python_read(const question *question, uint64_t offset, size_t most, area *into, size_t *size);
int python_statfs(const question *question, struct fuse_kstatfs *into);
/* Children from `position` on, as many as fill `room` bytes of a reply; stops where `take` returns false. */
int python_readdir(const question *question, uint64_t position, size_t room, take_child *take, void *context);
void caller_end(caller *caller);

/* --- prefetch.c: small files that follow the one being read --- */

struct session;

/* How far a directory has been read in order. */
typedef struct {
    uint64_t directory;
    uint32_t last, until, window; /* positions; what lies before `until` needs no more prefetching */
} progress;

enum { PROGRESSES = 16 };

typedef struct {
    pthread_mutex_t lock; /* held by the one thread that prefetches */
    progress directories[PROGRESSES];
    unsigned in_order; /* files in a row that were read in the order of their names */
    reader reader;
    uint64_t parent;
    entry directory;
    uint32_t position, end;
    size_t budget;
} prefetcher;

/* Whether the files behind this one are worth having; if so, the caller prefetches, then ends it. */
bool prefetch_begin(struct session *session, uint64_t file);
void prefetch_run(struct session *session, uint32_t files);
void prefetch_end(struct session *session);

/* --- loop.c, requests.c, answers.c, listing.c: the conversation with the kernel --- */

enum { MAX_THREADS = 12, REQUEST_ROOM = 16 << 10, MAX_TRANSFER = 1 << 20 };

typedef struct {
    uint64_t timeout; /* seconds that the kernel may keep names and attributes */
    bool changes;     /* what is shown may change: nothing is kept here, and no more there */
    int64_t uid, gid; /* -1: as stored */
    uint32_t umask;
    int64_t owner; /* the user that alone, beside root, may look in; -1: the kernel decides */
} appearance;

struct worker;

typedef struct session {
    int device, archive; /* archive: -1 where only Python can read it */
    int ended;           /* gets a byte when the last thread has ended */
    appearance appearance;
    PyObject *answers;
    table table;
    shelf shelf;
    pieces pieces;
    prefetcher prefetcher;
    pthread_mutex_t lock;
    pthread_cond_t wanted; /* at the device */
    atomic_int watching;   /* threads at the device, or soon back there */
    int idle;              /* threads that wait to be wanted */
    atomic_int load;       /* how many requests of late took long, less those that did not */
    atomic_bool awake;     /* the last request came before its thread would have fallen asleep and been woken */
    struct worker *workers[MAX_THREADS];
    int running, started;
    long processors;
    atomic_bool stop;
    atomic_llong last_request; /* CLOCK_MONOTONIC, ns */
} session;

/* One thread that answers requests. */
typedef struct worker {
    session *session;
    pthread_t thread;
    int device;
    bool watches, takes_long, blocking, over;
    caller caller;
    reader reader;
    area reply, answer;
    uint8_t request[REQUEST_ROOM] __attribute__((aligned(8)));
} worker;

void handle(worker *worker, size_t length);
/* Leaves the device to another thread before what may take long; whether there is one. */
bool may_take_long(void);

bool session_start(session *session);
/* True once all threads have ended; waits for them up to `seconds`. */
bool session_end(session *session, int seconds);

#endif
