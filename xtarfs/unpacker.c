/* Members against their records, and to files: whole batches of them without the interpreter.

The twin of `check.check_member` and `restore.write_file`, which stay the reference: here a member is either sound in
every bit, or left to Python, which says what is wrong with it. So is every member that is out of the ordinary. */

#define _GNU_SOURCE
#include "lines.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ROOM_STEP = 1 << 20 };

/* Sync flush and full flush, behind every chunk but the last. */
static const char CHUNK_END[9] = "\0\0\xff\xff\0\0\0\xff\xff";

/* What unpacking needs again and again; kept from batch to batch. */
typedef struct Bench {
    struct Bench *next;
    void *decompressor, *digest;
    uint8_t *content;
    size_t room;
} Bench;

static Bench *idle; /* guarded by the interpreter lock */

static void free_bench(Bench *bench) {
    if (bench->decompressor)
        engines.free_decompressor(bench->decompressor);
    if (bench->digest)
        engines.digest_free(bench->digest);
    free(bench->content);
    free(bench);
}

static Bench *take_bench(void) {
    Bench *bench = idle;
    if (bench) {
        idle = bench->next;
        return bench;
    }
    bench = calloc(1, sizeof *bench);
    if (!bench)
        return NULL;
    bench->decompressor = engines.alloc_decompressor();
    bench->digest = new_digest();
    if (bench->decompressor && bench->digest)
        return bench;
    free_bench(bench);
    return NULL;
}

static void put_back(Bench *bench) {
    bench->next = idle;
    idle = bench;
}

/* -- members: no Python from here on ------------------------------------------------------------------------------- */

/* The content of the packed data; NULL if it does not unpack to its size. */
static const uint8_t *unpack(Bench *bench, const Member *member, const uint8_t *packed) {
    if (member->method == STORED)
        return member->packed == member->size ? packed : NULL;
    if (!bench->content || bench->room < member->size) {
        size_t room = ((size_t)member->size / ROOM_STEP + 1) * ROOM_STEP;
        free(bench->content);
        bench->content = malloc(room);
        bench->room = bench->content ? room : 0;
        if (!bench->content)
            return NULL;
    }
    int result = engines.decompress(bench->decompressor, packed, (size_t)member->packed, bench->content,
                                    (size_t)member->size, NULL);
    return result == 0 ? bench->content : NULL;
}

/* Whether every chunk of the content matches its row, and ends in the packed data where its row says. */
static bool chunks_match(const File *file, const uint8_t *packed, const uint8_t *content, const uint8_t *table) {
    const Member *member = &file->member;
    size_t count = chunk_count(file), size = (size_t)member->size, chunk = (size_t)file->chunk;
    const uint8_t *crcs = table + TABLE_HEAD, *offsets = crcs + 4 * count;
    for (size_t row = 0; row < count; row++) {
        size_t at = row * chunk;
        if (engines.crc32(0, content + at, size - at < chunk ? size - at : chunk) != read32(crcs + 4 * row))
            return false;
        if (member->method == DEFLATED && row) {
            uint64_t end = read64(offsets + 8 * (row - 1));
            if (end < sizeof CHUNK_END || end > member->packed ||
                memcmp(packed + end - sizeof CHUNK_END, CHUNK_END, sizeof CHUNK_END))
                return false;
        }
    }
    return true;
}

static bool content_matches(Bench *bench, const File *file, const uint8_t *content) {
    uint8_t sum[32];
    const Member *member = &file->member;
    if (engines.crc32(0, content, (size_t)member->size) != member->crc32 ||
        !sha256(bench->digest, content, (size_t)member->size, sum))
        return false;
    for (size_t i = 0; i < SHA256_DIGITS; i++)
        if (file->sha256[i] != hex_digit(sum, i))
            return false;
    return true;
}

/* Whether the headers before the data, and all that follows it, are exactly what the record calls for. */
static bool around_matches(const File *file, const uint8_t *raw, const uint8_t *table, size_t table_size) {
    uint8_t expected[LARGEST_TAIL];
    const Member *member = &file->member;
    size_t head = head_length(member);
    put_head(expected, member, table_size);
    if (memcmp(raw, expected, head))
        return false;
    const uint8_t *tail = raw + head + member->packed;
    if (table_size) {
        put_table_head(expected, member, table_size, engines.crc32(0, table, table_size));
        if (memcmp(tail, expected, table_head_length(member)))
            return false;
        tail = table + table_size;
    }
    size_t length = (size_t)(put_end(expected, member, table_size) - expected);
    return !memcmp(tail, expected, length);
}

/* The content, checked; NULL if it is not what the record says. */
static const uint8_t *sound_content(Bench *bench, const File *file, const uint8_t *packed, const uint8_t *table) {
    const uint8_t *content = unpack(bench, &file->member, packed);
    bool sound = content && (!file->chunk || chunks_match(file, packed, content, table)) &&
                 content_matches(bench, file, content);
    return sound ? content : NULL;
}

/* Headers, data, chunk table and padding. */
static size_t member_length(const File *file) {
    size_t size = head_length(&file->member) + (size_t)file->member.packed +
                  unpadded_tail_length(&file->member, table_length(file));
    return size + (size_t)(-size % BLOCK);
}

/* Whether the member that begins at `raw`, all of it being there, is sound. */
static bool is_sound(Bench *bench, const File *file, const uint8_t *raw) {
    const Member *member = &file->member;
    size_t table_size = table_length(file);
    const uint8_t *packed = raw + file->data, *table = raw + file->index;
    return sound_content(bench, file, packed, table) &&
           (!file->has_packed_crc32 || engines.crc32(0, packed, (size_t)member->packed) == file->packed_crc32) &&
           around_matches(file, raw, table, table_size);
}

/* Bytes of the source that are in memory: `size` from `start` on. */
typedef struct {
    const uint8_t *bytes;
    uint64_t start, size;
} Window;

/* Where `size` bytes from `at` on of the source are in memory; NULL if they are not. */
static const uint8_t *in_window(const Window *window, uint64_t at, uint64_t size) {
    bool inside = at >= window->start && size <= window->size && at - window->start <= window->size - size;
    return inside ? window->bytes + (at - window->start) : NULL;
}

/* -- runs: plain files whose members follow one another -------------------------------------------------------------- */

/* Some of a block's lines: those of a run, or, `count` being 0, what is left for Python. at, end: of the members, from
the start of the directory's tar. */
typedef struct {
    const char *lines, *stop;
    size_t count;
    uint64_t content, at, end;
} Stretch;

/* The next line alone, a file of over `largest` bytes being for Python; false if it is no record. */
static bool next_line(cursor *in, Path *path, uint64_t largest, Stretch *into) {
    fields line;
    File file = {0};
    *into = (Stretch){.lines = in->at};
    if (!fields_parse(in, &line) || !json_byte(in, '\n'))
        return false;
    into->stop = in->at;
    if (!line_file(&line, path, &file) || member_length(&file) > largest)
        return true;
    into->count = 1;
    into->content = file.member.size;
    into->at = file.at;
    into->end = file.at + member_length(&file);
    return true;
}

/* Whether what follows a stretch could be made part of it, its members spanning no more than `longest` bytes. */
static bool join(Stretch *stretch, const Stretch *next, uint64_t longest) {
    bool alike = !stretch->count == !next->count && next->at == stretch->end && next->end - stretch->at <= longest;
    if (!alike)
        return false;
    stretch->stop = next->stop;
    stretch->count += next->count;
    stretch->content += next->content;
    stretch->end = next->end;
    return true;
}

/* What check() knows of a run. base: where the directory's tar begins. path: the directory's. */
typedef struct {
    Span lines, path;
    uint64_t base;
    Member mark; /* tag and ino only */
    uint8_t tag[6];
    size_t count;
    bool *sound;
} Run;

static void check_run(Bench *bench, const Run *run, const Window *window) {
    const char *lines = (const char *)run->lines.bytes;
    cursor in = {lines, lines + run->lines.length};
    fields line;
    Path path;
    if (!open_path(&path, run->path))
        return;
    for (size_t i = 0; i < run->count && fields_parse(&in, &line) && json_byte(&in, '\n'); i++) {
        File file = {.member = run->mark};
        if (!line_file(&line, &path, &file))
            continue;
        const uint8_t *raw = in_window(window, run->base + file.at, member_length(&file));
        run->sound[i] = raw && is_sound(bench, &file, raw);
    }
}

/* -- files --------------------------------------------------------------------------------------------------------- */

static bool write_all(int fd, const uint8_t *data, size_t size) {
    while (size) {
        ssize_t written = write(fd, data, size);
        if (written <= 0)
            return false;
        data += written;
        size -= (size_t)written;
    }
    return true;
}

static bool make_file(const File *file, const char *temporary, const uint8_t *content) {
    const Member *member = &file->member;
    const struct timespec time = {(time_t)member->mtime, (long)member->nanoseconds}, times[2] = {time, time};
    int fd = openat(file->folder, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return false;
    bool made = write_all(fd, content, (size_t)member->size) &&
                (file->uid == (uid_t)-1 || !fchown(fd, file->uid, file->gid)) && !fchmod(fd, member->mode & 0777) &&
                !futimens(fd, times);
    made = !close(fd) && made; /* some file systems say only now what they could not write */
    made = made && !renameat2(file->folder, temporary, file->folder, file->name, RENAME_NOREPLACE);
    if (!made)
        unlinkat(file->folder, temporary, 0);
    return made;
}

/* The file under its name, with owner, mode and time, or nothing. */
static bool restore_file(Bench *bench, File *file, const Window *window, const char *temporary) {
    const Member *member = &file->member;
    const uint8_t *packed = in_window(window, file->at + file->data, member->packed);
    const uint8_t *table = file->chunk ? in_window(window, file->at + file->index, table_length(file)) : NULL;
    if (!packed || (file->chunk && !table) || member->mode & 07000)
        return false;
    struct stat there;
    if (!fstatat(file->folder, file->name, &there, AT_SYMLINK_NOFOLLOW))
        return false;
    const uint8_t *content = sound_content(bench, file, packed, table);
    return content && make_file(file, temporary, content);
}

/* -- the module ---------------------------------------------------------------------------------------------------- */

/* What one call is given, and needs to go through it. */
typedef struct {
    PyObject *items;
    Py_ssize_t count;
    Bench *bench;
    Py_buffer raw;
    Window window;
} Batch;

/* raw: a buffer that is the batch's from now on. False with an error set. */
static bool open_batch(Batch *batch, PyObject *items, unsigned long long start) {
    batch->items = PySequence_Tuple(items); /* nobody else may change it meanwhile */
    if (!batch->items)
        return false;
    batch->count = PyTuple_GET_SIZE(batch->items);
    batch->bench = take_bench();
    batch->window = (Window){batch->raw.buf, start, (uint64_t)batch->raw.len};
    if (!batch->bench)
        PyErr_NoMemory();
    return batch->bench != NULL;
}

static void close_batch(Batch *batch) {
    if (batch->bench)
        put_back(batch->bench);
    Py_XDECREF(batch->items);
    PyBuffer_Release(&batch->raw);
}

/* The numbers of the files that are left for Python. */
static PyObject *undone(const File *files, Py_ssize_t count) {
    PyObject *left = PyList_New(0);
    for (Py_ssize_t i = 0; left && i < count; i++) {
        PyObject *number = files[i].done ? NULL : PyLong_FromSsize_t(i);
        if (!files[i].done && (!number || PyList_Append(left, number)))
            Py_CLEAR(left);
        Py_XDECREF(number);
    }
    return left;
}

/* Adds a stretch to a list as (lines, count, content, at, end). */
static bool add_stretch(PyObject *list, const Stretch *stretch) {
    PyObject *made =
        Py_BuildValue("(y#nKKK)", stretch->lines, (Py_ssize_t)(stretch->stop - stretch->lines),
                      (Py_ssize_t)stretch->count, (unsigned long long)stretch->content,
                      (unsigned long long)stretch->at, (unsigned long long)stretch->end);
    bool added = made && !PyList_Append(list, made);
    Py_XDECREF(made);
    return added;
}

static bool is_utf8(const char *text, Py_ssize_t length) {
    PyObject *decoded = PyUnicode_DecodeUTF8(text, length, NULL);
    Py_XDECREF(decoded);
    PyErr_Clear();
    return decoded != NULL;
}

PyDoc_STRVAR(split_doc,
             "split(lines, path, longest, largest) -> list\n\n"
             "Lines of a structure file in pieces (lines, count, content, at, end): `count` plain files whose members,\n"
             "none over `largest` bytes and no more than `longest` together, follow one another in [at, end) of the\n"
             "directory's tar; or 0, and lines that are not of such. content: bytes that the files show. path: the\n"
             "directory's, below the archive's root.");

static PyObject *split(PyObject *self, PyObject *args) {
    const char *lines, *directory;
    Py_ssize_t size, length;
    unsigned long long longest, largest;
    (void)self;
    if (!PyArg_ParseTuple(args, "y#y#KK:split", &lines, &size, &directory, &length, &longest, &largest))
        return NULL;
    PyObject *found = PyList_New(0);
    if (!found || !size)
        return found;
    cursor in = {lines, lines + size};
    Stretch whole = {.lines = lines, .stop = lines + size}, current, next;
    Path path;
    bool added = true, known = is_utf8(directory, length) &&
                               open_path(&path, (Span){(const uint8_t *)directory, (size_t)length}) &&
                               next_line(&in, &path, largest, &current);
    while (added && known && in.at < in.end) {
        known = next_line(&in, &path, largest, &next);
        if (known && !join(&current, &next, longest)) {
            added = add_stretch(found, &current);
            current = next;
        }
    }
    if (added && !known)
        added = !PyList_SetSlice(found, 0, PyList_GET_SIZE(found), NULL);
    if (added && add_stretch(found, known ? &current : &whole))
        return found;
    Py_DECREF(found);
    return NULL;
}

/* A run as (lines, count, path, mark, base). False with an error set if it is none. */
static bool parse_run(PyObject *object, Run *run) {
    const char *lines, *path;
    Py_ssize_t size, count, length;
    unsigned long long base;
    PyObject *mark;
    if (!require_tuple(object) ||
        !PyArg_ParseTuple(object, "y#ny#OK;a run", &lines, &size, &count, &path, &length, &mark, &base))
        return false;
    if (count < 0 || count > size || !parse_mark(mark, &run->mark, run->tag)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "not a run of files");
        return false;
    }
    run->lines = (Span){(const uint8_t *)lines, (size_t)size};
    run->path = (Span){(const uint8_t *)path, (size_t)length};
    run->count = (size_t)count;
    run->base = base;
    return true;
}

/* How many files there are in the runs of one call, -1 with an error set. */
static Py_ssize_t parse_runs(const Batch *batch, Run *runs) {
    Py_ssize_t total = 0;
    for (Py_ssize_t i = 0; i < batch->count; i++) {
        if (!parse_run(PyTuple_GET_ITEM(batch->items, i), &runs[i]))
            return -1;
        total += (Py_ssize_t)runs[i].count;
    }
    return total;
}

/* (number of the run, of the file in it) of all that were not proven sound. */
static PyObject *unproven(const Run *runs, Py_ssize_t count) {
    PyObject *left = PyList_New(0);
    for (Py_ssize_t i = 0; left && i < count; i++)
        for (size_t k = 0; left && k < runs[i].count; k++) {
            PyObject *pair = runs[i].sound[k] ? NULL : Py_BuildValue("(nn)", i, (Py_ssize_t)k);
            if (!runs[i].sound[k] && (!pair || PyList_Append(left, pair)))
                Py_CLEAR(left);
            Py_XDECREF(pair);
        }
    return left;
}

PyDoc_STRVAR(check_doc,
             "check(runs, raw, start) -> list\n\n"
             "runs: tuples (lines, count, path, mark, base) of what split() found; base: where in the source the\n"
             "directory's tar begins. Gives (run, file in it) of all that are not proven to be sound. raw: bytes of the\n"
             "source from `start` on, all of the files among them.");

static PyObject *check(PyObject *self, PyObject *args) {
    Batch batch = {0};
    PyObject *items, *left = NULL;
    unsigned long long start;
    (void)self;
    if (!PyArg_ParseTuple(args, "Oy*K:check", &items, &batch.raw, &start))
        return NULL;
    bool opened = open_batch(&batch, items, start);
    Run *runs = opened ? calloc((size_t)batch.count + 1, sizeof *runs) : NULL;
    Py_ssize_t total = runs ? parse_runs(&batch, runs) : -1;
    bool *sound = total >= 0 ? calloc((size_t)total + 1, sizeof *sound) : NULL;
    if (sound) {
        Py_BEGIN_ALLOW_THREADS;
        bool *next = sound;
        for (Py_ssize_t i = 0; i < batch.count; next += runs[i++].count) {
            runs[i].sound = next;
            check_run(batch.bench, &runs[i], &batch.window);
        }
        Py_END_ALLOW_THREADS;
        left = unproven(runs, batch.count);
    } else if (!PyErr_Occurred()) {
        PyErr_NoMemory();
    }
    free(sound);
    free(runs);
    close_batch(&batch);
    return left;
}

PyDoc_STRVAR(restore_doc,
             "restore(jobs, raw, start, prefix) -> list\n\n"
             "jobs: tuples (node, descriptor of a folder, name in it, uid, gid), uid and gid 2**32 - 1 if the owner\n"
             "is not to be set. Gives which of them were not restored. raw: bytes of the source from `start` on.\n"
             "prefix: begins names in the folders that nobody else makes.");

static PyObject *restore(PyObject *self, PyObject *args) {
    static unsigned long long serial;
    Batch batch = {0};
    PyObject *items, *left = NULL;
    unsigned long long start, first;
    const char *prefix;
    (void)self;
    if (!PyArg_ParseTuple(args, "Oy*Ky:restore", &items, &batch.raw, &start, &prefix))
        return NULL;
    bool opened = open_batch(&batch, items, start);
    File *files = opened ? calloc((size_t)batch.count + 1, sizeof *files) : NULL;
    bool parsed = files != NULL;
    if (opened && !files)
        PyErr_NoMemory();
    for (Py_ssize_t i = 0; parsed && i < batch.count; i++)
        parsed = parse_job(PyTuple_GET_ITEM(batch.items, i), &files[i]);
    if (parsed) {
        first = serial;
        serial += (unsigned long long)batch.count;
        Py_BEGIN_ALLOW_THREADS;
        for (Py_ssize_t i = 0; i < batch.count; i++) {
            char temporary[TEXT_ROOM];
            int length = snprintf(temporary, sizeof temporary, "%s%llu", prefix, first + (unsigned long long)i);
            files[i].done = files[i].plain && length < (int)sizeof temporary &&
                            restore_file(batch.bench, &files[i], &batch.window, temporary);
        }
        Py_END_ALLOW_THREADS;
        left = undone(files, batch.count);
    }
    free(files);
    close_batch(&batch);
    return left;
}

static PyMethodDef methods[] = {
    {"split", split, METH_VARARGS, split_doc},
    {"check", check, METH_VARARGS, check_doc},
    {"restore", restore, METH_VARARGS, restore_doc},
    {0}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "xtarfs._unpacker", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__unpacker(void) {
    if (!load_reading_engines() || !intern_attributes())
        return NULL;
    return PyModule_Create(&definition);
}
