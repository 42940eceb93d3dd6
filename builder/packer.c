/* Small files to finished members, whole batches of them without the interpreter.

The twin of `files.store_small`, which stays the reference and takes every file that is out of the ordinary: with
extended attributes or holes, changed while it was read, unreadable, or too long in any field for a plain header. */

#define _GNU_SOURCE
#include "../xtarfs/engines.h"
#include "../xtarfs/layout.h"
#include "blocks.h"
#include "lines.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { LARGEST_FILE = 1 << 20, MOST_CHUNKS = LARGEST_FILE / MIN_CHUNK, MOST_IDLE = 8 };

/* Sync flush and full flush, behind every chunk but the last. */
static const uint8_t CHUNK_END[9] = "\0\0\xff\xff\0\0\0\xff\xff";

/* level: libdeflate's */
typedef struct {
    int level;
    uint32_t chunk_size;
} Settings;

/* What packing needs again and again; kept from batch to batch. data: a file's content. member: head, packed data,
tail. */
typedef struct Bench {
    struct Bench *next;
    Settings settings;
    void *compressor, *digest;
    Code *codes;
    uint8_t *data, *member;
    size_t room;
} Bench;

/* One file: what is asked, and what came of it. `blob` is NULL where Python must store it. */
typedef struct {
    int folder;
    Span source; /* its name in the folder, NUL-ended */
    unsigned long long ino, names;
    Member member;
    struct stat attributes;
    uint32_t chunk_size, packed_crc32;
    size_t table, table_length;
    uint8_t sha256[32];
    uint8_t *blob;
    size_t length;
    Lines lines;
} File;

static Bench *idle; /* guarded by the interpreter lock */

static void free_bench(Bench *bench) {
    if (bench->compressor)
        engines.free_compressor(bench->compressor);
    if (bench->digest)
        engines.digest_free(bench->digest);
    free(bench->codes);
    free(bench->data);
    free(bench->member);
    free(bench);
}

static Bench *new_bench(const Settings *settings) {
    Bench *bench = calloc(1, sizeof *bench);
    if (!bench)
        return NULL;
    bench->settings = *settings;
    bench->compressor = engines.alloc_compressor(settings->level);
    bench->digest = new_digest();
    bench->codes = malloc(2 * sizeof *bench->codes);
    bench->data = malloc(LARGEST_FILE);
    if (bench->compressor) {
        /* a chunk that does not shrink grows by its blocks' headers, here taken for one in MIN_CHUNK bytes */
        size_t bound = engines.compress_bound(bench->compressor, LARGEST_FILE) + 64 * MOST_CHUNKS;
        bench->room = LARGEST_HEAD + bound + LARGEST_TAIL + TABLE_HEAD + 12 * MOST_CHUNKS;
        bench->member = malloc(bench->room);
    }
    if (bench->digest && bench->codes && bench->data && bench->member)
        return bench;
    free_bench(bench);
    return NULL;
}

static Bench *take_bench(const Settings *settings) {
    Bench **link = &idle, *bench = idle;
    for (int seen = 1; bench; seen++, link = &bench->next, bench = *link) {
        bool fits = !memcmp(&bench->settings, settings, sizeof *settings);
        if (!fits && seen < MOST_IDLE)
            continue;
        *link = bench->next;
        if (fits)
            return bench;
        free_bench(bench);
        break;
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

/* One chunk of a deflate stream at `out`; the bytes written, 0 if that failed. */
static size_t pack_chunk(Bench *bench, const uint8_t *data, size_t size, bool last, uint8_t *out, size_t room) {
    size_t packed = engines.compress(bench->compressor, data, size, out, room), start, end;
    if (!packed || last)
        return packed;
    if (packed + SLACK > room)
        return 0;
    memset(out + packed, 0, SLACK);
    if (!find_last_block(out, packed, bench->codes, &start, &end))
        return 0;
    out[start / 8] &= (uint8_t)~(1u << start % 8);
    packed += 8 * packed - end < 3; /* the header of the flush's block needs another byte */
    memcpy(out + packed, CHUNK_END, sizeof CHUNK_END);
    return packed + sizeof CHUNK_END;
}

/* `size` bytes of data in chunks at `out`, with the CRC-32 of each, and where it begins in the packed data; the bytes
written, 0 if that failed. final: the stream ends with them. */
static size_t pack_chunks(Bench *bench, const uint8_t *data, size_t size, bool final, uint8_t *out, size_t room,
                          uint32_t *crcs, uint64_t *offsets) {
    size_t step = bench->settings.chunk_size, packed = 0, row = 0;
    for (size_t at = 0; at < size; at += step, row++) {
        size_t length = size - at < step ? size - at : step;
        size_t part = pack_chunk(bench, data + at, length, final && at + step >= size, out + packed, room - packed);
        if (!part)
            return 0;
        offsets[row] = packed;
        crcs[row] = engines.crc32(0, data + at, length);
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
    packed = chunked ? pack_chunks(bench, bench->data, size, true, out, room, crcs, offsets)
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

/* Whether the record holds what Python would not write in the same way. */
static bool is_odd(const File *file) {
    const Member *member = &file->member;
    return file->source.length > LONGEST_NAME || !is_verbatim(file->source, member->flags) ||
           !is_verbatim(member->user, false) || !is_verbatim(member->group, false) ||
           file->attributes.st_ctim.tv_sec < 0;
}

static void write_lines(File *file) {
    add_attributes(&file->lines, &file->member, file->source, file->ino, file->names);
    add_packing(&file->lines, &file->member, file->chunk_size);
    add_sums(&file->lines, &file->member, file->sha256, file->packed_crc32);
    add_origin(&file->lines, file->ino, &file->attributes);
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
    if (!is_plain(member) || is_odd(file))
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
    write_lines(file);
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
        !PyArg_ParseTuple(job, "iy#y#y#IIIy#y#HKK;a job", &file->folder, &source, &lengths[0], &path, &lengths[1],
                          &name, &lengths[2], &member->ino, &member->uid, &member->gid, &user, &lengths[3], &group,
                          &lengths[4], &member->flags, &file->ino, &file->names))
        return false;
    member->tag = tag;
    file->source = (Span){(const uint8_t *)source, (size_t)lengths[0]};
    member->path = (Span){(const uint8_t *)path, (size_t)lengths[1]};
    member->name = (Span){(const uint8_t *)name, (size_t)lengths[2]};
    member->user = (Span){(const uint8_t *)user, (size_t)lengths[3]};
    member->group = (Span){(const uint8_t *)group, (size_t)lengths[4]};
    return true;
}

static PyObject *outcome_of(const File *file) {
    const char *text = file->lines.text;
    const size_t *ends = file->lines.ends;
    if (!file->blob)
        Py_RETURN_NONE;
    return Py_BuildValue("(y#kkkky#y#y#y#)", (const char *)file->blob, (Py_ssize_t)file->length,
                         (unsigned long)file->member.size, (unsigned long)head_length(&file->member),
                         (unsigned long)file->table, (unsigned long)file->table_length, text, (Py_ssize_t)ends[0],
                         text + ends[0], (Py_ssize_t)(ends[1] - ends[0]), text + ends[1],
                         (Py_ssize_t)(ends[2] - ends[1]), text + ends[2], (Py_ssize_t)(ends[3] - ends[2]));
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

static bool are_possible(const Settings *settings) {
    return settings->level >= 1 && settings->level <= 12 && settings->chunk_size >= MIN_CHUNK;
}

PyDoc_STRVAR(pack_doc,
             "pack(jobs, tag, level, chunk_size) -> list\n\n"
             "jobs: tuples (folder descriptor, name in it, path, member's name, the directory's ino, uid, gid, user,\n"
             "group, zip flags, ino, number of names). For each, None where Python must store it, or what Finished is\n"
             "made of.");

static PyObject *pack(PyObject *self, PyObject *args) {
    PyObject *jobs;
    Settings settings = {0};
    const char *tag;
    Py_ssize_t tag_length;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!y#iI:pack", &PyList_Type, &jobs, &tag, &tag_length, &settings.level,
                          &settings.chunk_size))
        return NULL;
    if (tag_length != 6 || !are_possible(&settings))
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

PyDoc_STRVAR(pack_segment_doc,
             "pack_segment(data, level, chunk_size, final) -> tuple\n\n"
             "Up to 1 MiB of a file as chunks: the packed bytes; the packed size of each, as array('Q') keeps it; the CRC-32 of\n"
             "each one's content, as array('I') does. None where Python must pack it.");

static PyObject *pack_segment(PyObject *self, PyObject *args) {
    Py_buffer data;
    Settings settings = {0};
    int final;
    PyObject *outcome = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*iIp:pack_segment", &data, &settings.level, &settings.chunk_size, &final))
        return NULL;
    bool possible = are_possible(&settings) && data.len && data.len <= LARGEST_FILE;
    Bench *bench = possible ? take_bench(&settings) : NULL;
    if (!possible)
        PyErr_Format(PyExc_ValueError, "impossible settings");
    else if (!bench)
        PyErr_NoMemory();
    else {
        uint32_t crcs[MOST_CHUNKS];
        uint64_t offsets[MOST_CHUNKS] = {0}, sizes[MOST_CHUNKS];
        size_t packed, size = (size_t)data.len, rows = (size + settings.chunk_size - 1) / settings.chunk_size;
        Py_BEGIN_ALLOW_THREADS;
        packed = pack_chunks(bench, data.buf, size, final, bench->member, bench->room, crcs, offsets);
        for (size_t row = 0; row < rows; row++)
            sizes[row] = (row + 1 < rows ? offsets[row + 1] : packed) - offsets[row];
        Py_END_ALLOW_THREADS;
        outcome = packed ? Py_BuildValue("(y#y#y#)", (const char *)bench->member, (Py_ssize_t)packed,
                                         (const char *)sizes, (Py_ssize_t)(rows * sizeof *sizes),
                                         (const char *)crcs, (Py_ssize_t)(rows * sizeof *crcs))
                         : Py_NewRef(Py_None);
        put_back(bench);
    }
    PyBuffer_Release(&data);
    return outcome;
}

static PyMethodDef methods[] = {{"pack", pack, METH_VARARGS, pack_doc},
                                {"pack_segment", pack_segment, METH_VARARGS, pack_segment_doc},
                                {0}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "builder._packer", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__packer(void) {
    const Engine deflate[] = {
        {"libdeflate_alloc_compressor", &engines.alloc_compressor},
        {"libdeflate_free_compressor", &engines.free_compressor},
        {"libdeflate_deflate_compress", &engines.compress},
        {"libdeflate_deflate_compress_bound", &engines.compress_bound},
    };
    if (!load_reading_engines() || !load_engines("deflate._deflate", deflate, COUNT(deflate)))
        return NULL;
    return PyModule_Create(&definition);
}
