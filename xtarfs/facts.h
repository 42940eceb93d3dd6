/* What records say, out of Python objects into C: plain members only, the others being for Python.

The functions give false, perhaps with an error set, for what is not plain. */

#ifndef XTAR_FACTS_H
#define XTAR_FACTS_H

#include "engines.h"
#include "layout.h"

#include <sys/types.h>

enum { LARGEST_CONTENT = 16 << 20, SHA256_DIGITS = 64, TEXT_ROOM = 256 };

/* One member. at: where it lies; data and index count from there. folder, name, uid, gid: where and
for whom it is restored. done: it is. */
typedef struct {
    Member member;
    char text[TEXT_ROOM]; /* what name, user and group point to */
    size_t used;
    uint64_t at, data, index, chunk;
    uint32_t packed_crc32;
    bool plain, has_packed_crc32, done;
    char sha256[SHA256_DIGITS];
    int folder;
    const char *name;
    uid_t uid;
    gid_t gid;
} File;

enum { NAME, NAME_B64, TYPE, MODE, UID, GID, USER, GROUP, MTIME, SIZE, AT, DATA, PACKED, METHOD, CHUNK, INDEX, CRC32,
       SHA256, PACKED_CRC32, XATTRS, HOLES, RECORD, BASE, INO, TAG, ATTRIBUTES };

static const char *const attribute_names[ATTRIBUTES] = {
    "name", "name_b64", "type", "mode", "uid", "gid", "user", "group", "mtime", "size", "at", "data", "packed",
    "method", "chunk", "index", "crc32", "sha256", "packed_crc32", "xattrs", "holes", "record", "base", "ino", "tag"};

static PyObject *attributes[ATTRIBUTES];

static bool intern_attributes(void) {
    for (int i = 0; i < ATTRIBUTES; i++)
        if (!attributes[i] && !(attributes[i] = PyUnicode_InternFromString(attribute_names[i])))
            return false;
    return true;
}

static bool get_number(PyObject *object, int attribute, uint64_t *number) {
    PyObject *value = PyObject_GetAttr(object, attributes[attribute]);
    *number = value ? PyLong_AsUnsignedLongLong(value) : 0;
    Py_XDECREF(value);
    return !PyErr_Occurred();
}

/* The attribute's text into `room`, of which it may fill `most`; its length, -1 if it is longer or none. */
static Py_ssize_t get_text(PyObject *object, int attribute, char *room, Py_ssize_t most) {
    PyObject *value = PyObject_GetAttr(object, attributes[attribute]);
    Py_ssize_t length = -1;
    const char *text = value ? PyUnicode_AsUTF8AndSize(value, &length) : NULL;
    if (text && length <= most)
        memcpy(room, text, (size_t)length);
    else
        length = -1;
    Py_XDECREF(value);
    return length;
}

static bool keep_text(PyObject *record, int attribute, File *file, Py_ssize_t most, Span *span) {
    char *room = file->text + file->used;
    Py_ssize_t length = get_text(record, attribute, room, most);
    if (length < 0)
        return false;
    *span = (Span){(const uint8_t *)room, (size_t)length};
    file->used += (size_t)length;
    return true;
}

static bool is_text(PyObject *record, int attribute, const char *wanted) {
    char text[16];
    Py_ssize_t length = get_text(record, attribute, text, sizeof text);
    return length >= 0 && (size_t)length == strlen(wanted) && !memcmp(text, wanted, (size_t)length);
}

enum { CRC32_DIGITS = 8 };

/* As records spell it: small letters, as Python compares text. */
static bool read_crc(const char *text, uint32_t *crc) {
    *crc = 0;
    for (size_t i = 0; i < CRC32_DIGITS; i++) {
        char c = text[i];
        if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'f'))
            return false;
        *crc = *crc << 4 | (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return true;
}

static bool get_crc(PyObject *record, int attribute, uint32_t *crc) {
    char text[CRC32_DIGITS];
    return get_text(record, attribute, text, sizeof text) == sizeof text && read_crc(text, crc);
}

static bool get_mode(PyObject *record, uint32_t *mode) {
    char text[4];
    if (get_text(record, MODE, text, sizeof text) != sizeof text)
        return false;
    *mode = 0100000;
    for (size_t i = 0; i < sizeof text; i++) {
        if (text[i] < '0' || text[i] > '7')
            return false;
        *mode |= (uint32_t)(text[i] - '0') << (9 - 3 * i);
    }
    return true;
}

static bool get_time(PyObject *record, Member *member) {
    char text[20];
    Py_ssize_t length = get_text(record, MTIME, text, sizeof text), i = 0;
    member->mtime = 0;
    member->nanoseconds = 0;
    if (length < 1)
        return false;
    for (; i < length && text[i] != '.'; i++) {
        if (text[i] < '0' || text[i] > '9' || i > 9)
            return false;
        member->mtime = member->mtime * 10 + (text[i] - '0');
    }
    if (i == length)
        return i > 0;
    uint32_t unit = 100000000;
    Py_ssize_t digits = length - ++i;
    for (; i < length; i++, unit /= 10) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        member->nanoseconds += (uint32_t)(text[i] - '0') * unit;
    }
    return digits >= 1 && digits <= 9;
}

static bool is_empty(PyObject *record, int attribute) {
    PyObject *value = PyObject_GetAttr(record, attributes[attribute]);
    bool empty = value && PyObject_Size(value) == 0;
    Py_XDECREF(value);
    return empty;
}

static bool get_places(PyObject *record, File *file) {
    uint64_t at;
    if (!get_number(record, AT, &at) || !get_number(record, DATA, &file->data) ||
        !get_number(record, INDEX, &file->index) || !get_number(record, CHUNK, &file->chunk) || file->data < at ||
        (file->chunk && (file->index < at || file->chunk > LARGEST_CONTENT || !file->member.size)))
        return false;
    file->data -= at;
    file->index -= file->chunk ? at : 0;
    return true;
}

static bool get_owner(PyObject *record, Member *member) {
    uint64_t uid, gid;
    if (!get_number(record, UID, &uid) || !get_number(record, GID, &gid) || uid >= LARGEST_ID || gid >= LARGEST_ID)
        return false;
    member->uid = (uint32_t)uid;
    member->gid = (uint32_t)gid;
    return true;
}

static bool parse_record(PyObject *record, File *file) {
    Member *member = &file->member;
    if (!is_text(record, TYPE, "file") || !is_text(record, NAME_B64, "") || !is_empty(record, XATTRS))
        return false;
    if (!keep_text(record, NAME, file, LONGEST_NAME - 4, &member->name))
        return false;
    memcpy(file->text + file->used, ".zip", 4);
    file->used += 4;
    member->name.length += 4;
    if (!keep_text(record, USER, file, LONGEST_OWNER, &member->user) ||
        !keep_text(record, GROUP, file, LONGEST_OWNER, &member->group) || !get_owner(record, member) ||
        !get_mode(record, &member->mode) || !get_time(record, member) || !get_number(record, SIZE, &member->size) ||
        !get_number(record, PACKED, &member->packed) || !get_places(record, file) ||
        !get_crc(record, CRC32, &member->crc32) ||
        get_text(record, SHA256, file->sha256, SHA256_DIGITS) != SHA256_DIGITS)
        return false;
    file->has_packed_crc32 = !is_text(record, PACKED_CRC32, "");
    if (file->has_packed_crc32 && !get_crc(record, PACKED_CRC32, &file->packed_crc32))
        return false;
    member->method = is_text(record, METHOD, "deflate") ? DEFLATED : STORED;
    return (member->method == DEFLATED || is_text(record, METHOD, "store")) && is_plain(member) &&
           member->size <= LARGEST_CONTENT;
}

static bool parse_mark(PyObject *mark, Member *member, uint8_t tag[6]) {
    uint64_t ino;
    PyObject *value = PyObject_GetAttr(mark, attributes[TAG]);
    bool valid = value && PyBytes_Check(value) && PyBytes_GET_SIZE(value) == 6 && get_number(mark, INO, &ino);
    if (valid) {
        memcpy(tag, PyBytes_AS_STRING(value), 6);
        member->tag = tag;
        member->ino = (uint32_t)ino;
    }
    Py_XDECREF(value);
    return valid;
}

/* A job of restore(). False with an error set if it is none. */
static bool parse_job(PyObject *job, File *file) {
    PyObject *node;
    uint64_t base, at;
    if (!require_tuple(job) ||
        !PyArg_ParseTuple(job, "OiyII;a job", &node, &file->folder, &file->name, &file->uid, &file->gid))
        return false;
    PyObject *record = PyObject_GetAttr(node, attributes[RECORD]);
    file->plain = record && parse_record(record, file) && is_empty(record, HOLES) &&
                  get_number(node, BASE, &base) && get_number(record, AT, &at) && !strchr(file->name, '/');
    if (file->plain)
        file->at = base + at;
    Py_XDECREF(record);
    PyErr_Clear();
    return true;
}

#endif
