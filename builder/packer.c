/* Small files to finished members, whole batches of them without the interpreter.

The twin of `files.store_small`, which stays the reference and takes every file that is out of the ordinary: with
extended attributes or holes, changed while it was read, unreadable, or too long in any field for a plain header. */

#define _GNU_SOURCE
#include "../xtarfs/engines.h"
#include "../xtarfs/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { LARGEST_FILE = 1 << 20, MIN_CHUNK = 4096, MOST_CHUNKS = LARGEST_FILE / MIN_CHUNK, ROOM_STEP = 16 << 10 };

typedef struct {
    int deflate, chunk;
    uint32_t chunk_size;
} Settings;

/* What packing needs again and again; kept from batch to batch. data: a file's content. member: head, packed data,
tail. */
typedef struct Bench {
    struct Bench *next;
    Settings settings;
    void *compressor, *digest;
    zng_stream stream;
    bool streaming;
    uint8_t *data, *member;
    size_t room;
} Bench;

/* One file: what is asked, and what came of it. `blob` is NULL where Python must store it. */
typedef struct {
    int folder;
    Span source; /* its name in the folder, NUL-ended */
    Member member;
    struct stat attributes;
    uint32_t chunk_size, packed_crc32;
    size_t table, table_length;
    uint8_t sha256[32];
    uint8_t *blob;
    size_t length;
} File;

static Bench *idle; /* guarded by the interpreter lock */

static void free_bench(Bench *bench) {
    if (bench->compressor)
        engines.free_compressor(bench->compressor);
    if (bench->digest)
        engines.digest_free(bench->digest);
    if (bench->streaming)
        engines.zng_end(&bench->stream);
    free(bench->data);
    free(bench->member);
    free(bench);
}

static Bench *new_bench(const Settings *settings) {
    Bench *bench = calloc(1, sizeof *bench);
    if (!bench)
        return NULL;
    bench->settings = *settings;
    bench->compressor = engines.alloc_compressor(settings->deflate);
    bench->digest = new_digest();
    bench->streaming = engines.zng_init(&bench->stream, settings->chunk, ZNG_DEFLATED, -15, ZNG_MEMORY_LEVEL, 0) == 0;
    bench->data = malloc(LARGEST_FILE);
    if (bench->compressor) {
        /* a chunk that does not shrink grows by far less than a sixteenth and its flushes; room comes in steps */
        size_t bound = engines.compress_bound(bench->compressor, LARGEST_FILE) + LARGEST_FILE / 16 + 64 * MOST_CHUNKS +
                       2 * LARGEST_FILE;
        bench->room = LARGEST_HEAD + bound + LARGEST_TAIL + TABLE_HEAD + 12 * MOST_CHUNKS;
        bench->member = malloc(bench->room);
    }
    if (bench->digest && bench->streaming && bench->data && bench->member)
        return bench;
    free_bench(bench);
    return NULL;
}

static Bench *take_bench(const Settings *settings) {
    Bench *bench = idle;
    if (bench) {
        idle = bench->next;
        if (!memcmp(&bench->settings, settings, sizeof *settings))
            return bench;
        free_bench(bench);
    }
    return new_bench(settings);
}

static void put_back(Bench *bench) {
    bench->next = idle;
    idle = bench;
}

/* The file's content into bench->data; false where Python must look at it. */
static bool read_file(Bench *bench, File *file) {
    const int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    const char *name = (const char *)file->source.bytes;
    struct stat before = {0}, after;
    size_t have = 0;
    ssize_t got = 0;
    bool sound = false;
    int fd = openat(file->folder, name, flags | O_NOATIME);
    if (fd < 0 && errno == EPERM)
        fd = openat(file->folder, name, flags);
    if (fd < 0)
        return false;
    if (!fstat(fd, &before) && S_ISREG(before.st_mode) && before.st_size < LARGEST_FILE &&
        flistxattr(fd, NULL, 0) <= 0 &&
        (before.st_blocks * 512 >= before.st_size || lseek(fd, 0, SEEK_HOLE) >= before.st_size)) {
        size_t size = (size_t)before.st_size, wanted = size ? size : 1; /* files of /proc claim to be empty */
        while (have < wanted && (got = pread(fd, bench->data + have, wanted - have, (off_t)have)) > 0)
            have += (size_t)got;
        sound = got >= 0 && have == size && !fstat(fd, &after) && before.st_size == after.st_size &&
                before.st_mtim.tv_sec == after.st_mtim.tv_sec && before.st_mtim.tv_nsec == after.st_mtim.tv_nsec &&
                before.st_ctim.tv_sec == after.st_ctim.tv_sec && before.st_ctim.tv_nsec == after.st_ctim.tv_nsec;
    }
    close(fd);
    file->attributes = before;
    return sound;
}

/* Gives the stream room as the wheel's compressobj does: 16 KiB, and as much again as it has whenever that is full.
Where the output pauses, the engine forgets a match that it had in view, so the steps show in what it writes. */
static bool run_stream(zng_stream *stream, int flush, const uint8_t *limit) {
    uint32_t step = ROOM_STEP, held = 0;
    int status;
    do {
        if (stream->next_out + step > limit)
            return false;
        stream->avail_out = step;
        status = engines.zng_deflate(stream, flush);
        held += step;
        step = held;
    } while (status == 0 && stream->avail_out == 0);
    return status == 0 || status == ZNG_STREAM_END || status == ZNG_BUF_ERROR;
}

/* One chunk of a deflate stream at `out`; the bytes written, 0 if that failed. */
static size_t pack_chunk(Bench *bench, const uint8_t *data, size_t size, bool last, uint8_t *out,
                         const uint8_t *limit) {
    zng_stream *stream = &bench->stream;
    stream->next_in = data;
    stream->avail_in = (uint32_t)size;
    stream->next_out = out;
    bool packed = engines.zng_reset(stream) == 0 && run_stream(stream, ZNG_NO_FLUSH, limit) &&
                  (last ? run_stream(stream, ZNG_FINISH, limit)
                        : run_stream(stream, ZNG_SYNC_FLUSH, limit) && run_stream(stream, ZNG_FULL_FLUSH, limit));
    return packed ? (size_t)(stream->next_out - out) : 0;
}

/* The data in chunks at `out`, with rows of the table; the bytes written, 0 if that failed or gains nothing. */
static size_t pack_chunks(Bench *bench, File *file, uint8_t *out, size_t room, uint32_t *crcs, uint64_t *offsets) {
    size_t size = (size_t)file->member.size, step = file->chunk_size, packed = 0, row = 0;
    for (size_t at = 0; at < size; at += step, row++) {
        size_t length = size - at < step ? size - at : step;
        size_t part = pack_chunk(bench, bench->data + at, length, at + step >= size, out + packed, out + room);
        if (!part)
            return 0;
        offsets[row] = packed;
        crcs[row] = engines.crc32(0, bench->data + at, length);
        packed += part;
    }
    return packed;
}

static uint8_t *put64(uint8_t *at, uint64_t value) {
    return put32(put32(at, (uint32_t)value), (uint32_t)(value >> 32));
}

static uint8_t *put_table(uint8_t *at, const File *file, const uint32_t *crcs, const uint64_t *offsets) {
    const Member *member = &file->member;
    size_t count = (size_t)((member->size + file->chunk_size - 1) / file->chunk_size);
    at = put32(put32(put32(put32(at, 1), (uint32_t)(4 * count)), file->chunk_size), 8);
    at = put64(put64(at, member->size), member->packed);
    for (size_t row = 0; row < count; row++)
        at = put32(at, crcs[row]);
    for (size_t row = 1; member->method == DEFLATED && row < count; row++)
        at = put64(at, offsets[row]);
    return at;
}

/* Packs bench->data to `out`, or copies it where it does not shrink; sets method, sizes and chunk size. */
static bool pack_data(Bench *bench, File *file, uint8_t *out, size_t room, uint32_t *crcs, uint64_t *offsets) {
    Member *member = &file->member;
    size_t size = (size_t)member->size, packed;
    bool chunked = size > bench->settings.chunk_size;
    file->chunk_size = chunked ? bench->settings.chunk_size : 0;
    packed = chunked ? pack_chunks(bench, file, out, room, crcs, offsets)
                     : engines.compress(bench->compressor, bench->data, size, out, room);
    if (!packed)
        return false;
    member->method = packed < size ? DEFLATED : STORED;
    member->packed = packed < size ? packed : size;
    if (member->method == DEFLATED) {
        file->packed_crc32 = engines.crc32(0, out, packed);
        return true;
    }
    memcpy(out, bench->data, size);
    file->chunk_size = chunked ? MIN_CHUNK : 0;
    for (size_t at = 0; chunked && at < size; at += MIN_CHUNK)
        crcs[at / MIN_CHUNK] = engines.crc32(0, out + at, size - at < MIN_CHUNK ? size - at : MIN_CHUNK);
    return true;
}

static bool store(Bench *bench, File *file) {
    Member *member = &file->member;
    uint32_t crcs[MOST_CHUNKS];
    uint64_t offsets[MOST_CHUNKS];
    if (!read_file(bench, file))
        return false;
    const struct stat *attributes = &file->attributes;
    if (attributes->st_uid != member->uid || attributes->st_gid != member->gid)
        return false; /* the owner's name belongs to another number */
    member->mode = attributes->st_mode;
    member->mtime = attributes->st_mtim.tv_sec;
    member->nanoseconds = (uint32_t)attributes->st_mtim.tv_nsec;
    member->size = (uint64_t)attributes->st_size;
    if (!is_plain(member))
        return false;
    member->crc32 = engines.crc32(0, bench->data, (size_t)member->size);
    if (!sha256(bench->digest, bench->data, (size_t)member->size, file->sha256))
        return false;
    size_t head = head_length(member);
    uint8_t *data = bench->member + head;
    if (!pack_data(bench, file, data, bench->room - head - LARGEST_TAIL - TABLE_HEAD - 12 * MOST_CHUNKS, crcs, offsets))
        return false;
    uint8_t *end = data + member->packed;
    if (file->chunk_size) {
        uint8_t *table = end + table_head_length(member), *table_end = put_table(table, file, crcs, offsets);
        file->table = (size_t)(table - bench->member);
        file->table_length = (size_t)(table_end - table);
        put_table_head(end, member, file->table_length, engines.crc32(0, table, file->table_length));
        end = table_end;
    }
    put_head(bench->member, member, file->table_length);
    end = put_end(end, member, file->table_length);
    file->length = (size_t)(end - bench->member);
    file->blob = malloc(file->length);
    if (file->blob)
        memcpy(file->blob, bench->member, file->length);
    return file->blob != NULL;
}

/* The file that a tuple of pack() asks for. The tuple keeps alive what the File points to. */
static bool parse_job(PyObject *job, const uint8_t *tag, File *file) {
    Member *member = &file->member;
    const char *source, *path, *name, *user, *group;
    Py_ssize_t lengths[5];
    if (!require_tuple(job) ||
        !PyArg_ParseTuple(job, "iy#y#y#IIIy#y#H;a job", &file->folder, &source, &lengths[0], &path, &lengths[1], &name,
                          &lengths[2], &member->ino, &member->uid, &member->gid, &user, &lengths[3], &group,
                          &lengths[4], &member->flags))
        return false;
    member->tag = tag;
    file->source = (Span){(const uint8_t *)source, (size_t)lengths[0]};
    member->path = (Span){(const uint8_t *)path, (size_t)lengths[1]};
    member->name = (Span){(const uint8_t *)name, (size_t)lengths[2]};
    member->user = (Span){(const uint8_t *)user, (size_t)lengths[3]};
    member->group = (Span){(const uint8_t *)group, (size_t)lengths[4]};
    return true;
}

static long long nanoseconds(const struct timespec *time) { return time->tv_sec * 1000000000LL + time->tv_nsec; }

static PyObject *outcome_of(const File *file) {
    const Member *member = &file->member;
    const struct stat *attributes = &file->attributes;
    if (!file->blob)
        Py_RETURN_NONE;
    return Py_BuildValue(
        "(y#(IkkkIIILLL){sLsL}IIkkIky#kk)", (const char *)file->blob, (Py_ssize_t)file->length, attributes->st_mode,
        (unsigned long)attributes->st_ino, (unsigned long)attributes->st_dev, (unsigned long)attributes->st_nlink,
        attributes->st_uid, attributes->st_gid, (unsigned)attributes->st_size, (long long)attributes->st_atim.tv_sec,
        (long long)attributes->st_mtim.tv_sec, (long long)attributes->st_ctim.tv_sec, "st_mtime_ns",
        nanoseconds(&attributes->st_mtim), "st_ctime_ns", nanoseconds(&attributes->st_ctim), member->crc32,
        (unsigned)(member->method == DEFLATED), (unsigned long)member->packed, (unsigned long)head_length(member),
        file->packed_crc32, (unsigned long)file->chunk_size, (const char *)file->sha256, (Py_ssize_t)32,
        (unsigned long)file->table, (unsigned long)file->table_length);
}

/* Takes files and results apart again; Python's lock is held. */
static PyObject *collect(File *files, Py_ssize_t count) {
    PyObject *outcomes = PyList_New(count);
    for (Py_ssize_t i = 0; outcomes && i < count; i++) {
        PyObject *outcome = outcome_of(&files[i]);
        if (outcome)
            PyList_SET_ITEM(outcomes, i, outcome);
        else
            Py_CLEAR(outcomes);
    }
    return outcomes;
}

PyDoc_STRVAR(pack_doc,
             "pack(jobs, tag, deflate_level, chunk_level, chunk_size) -> list\n\n"
             "jobs: tuples (folder descriptor, name in it, path, member's name, ino, uid, gid, user, group, zip\n"
             "flags). For each, None where Python must store it, or (member, two arguments of os.stat_result, CRC-32,\n"
             "whether it is deflated, packed size, where the data begins, CRC-32 of it packed, chunk size, SHA-256,\n"
             "where the chunk table begins, its length).");

static PyObject *pack(PyObject *self, PyObject *args) {
    PyObject *jobs;
    Settings settings = {0};
    const char *tag;
    Py_ssize_t tag_length;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!y#iiI:pack", &PyList_Type, &jobs, &tag, &tag_length, &settings.deflate,
                          &settings.chunk, &settings.chunk_size))
        return NULL;
    if (tag_length != 6 || settings.deflate < 1 || settings.deflate > 12 || settings.chunk < 1 || settings.chunk > 9 ||
        settings.chunk_size < MIN_CHUNK)
        return PyErr_Format(PyExc_ValueError, "impossible settings");
    PyObject *kept = PySequence_Tuple(jobs); /* nobody else may change it meanwhile */
    Py_ssize_t count = kept ? PyTuple_GET_SIZE(kept) : 0;
    File *files = kept ? calloc((size_t)count + 1, sizeof *files) : NULL;
    Bench *bench = files ? take_bench(&settings) : NULL;
    PyObject *outcomes = NULL;
    bool parsed = bench != NULL;
    if (kept && !bench)
        PyErr_NoMemory();
    for (Py_ssize_t i = 0; parsed && i < count; i++)
        parsed = parse_job(PyTuple_GET_ITEM(kept, i), (const uint8_t *)tag, &files[i]);
    if (parsed) {
        Py_BEGIN_ALLOW_THREADS;
        for (Py_ssize_t i = 0; i < count; i++)
            store(bench, &files[i]);
        Py_END_ALLOW_THREADS;
        outcomes = collect(files, count);
    }
    if (bench)
        put_back(bench);
    for (Py_ssize_t i = 0; files && i < count; i++)
        free(files[i].blob);
    free(files);
    Py_XDECREF(kept);
    return outcomes;
}

static PyMethodDef methods[] = {{"pack", pack, METH_VARARGS, pack_doc}, {0}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "builder._packer", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__packer(void) {
    const Engine deflate[] = {
        {"libdeflate_alloc_compressor", &engines.alloc_compressor},
        {"libdeflate_free_compressor", &engines.free_compressor},
        {"libdeflate_deflate_compress", &engines.compress},
        {"libdeflate_deflate_compress_bound", &engines.compress_bound},
    };
    const Engine chunks[] = {
        {"zng_deflateInit2", &engines.zng_init},
        {"zng_deflateReset", &engines.zng_reset},
        {"zng_deflate", &engines.zng_deflate},
        {"zng_deflateEnd", &engines.zng_end},
    };
    if (!load_reading_engines() || !load_engines("deflate._deflate", deflate, COUNT(deflate)) ||
        !load_engines("zlib_ng.zlib_ng", chunks, COUNT(chunks)))
        return NULL;
    return PyModule_Create(&definition);
}
