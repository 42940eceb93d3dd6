/* Questions to the Python file system. Its answers are what was asked for, or an errno as an integer. */

#include "native.h"

#include <errno.h>
#include <string.h>

static void enter(caller *caller)
{
    may_take_long();
    if (caller->state) {
        PyEval_RestoreThread(caller->state);
    } else {
        caller->before = PyGILState_Ensure();
        caller->state = PyThreadState_Get();
    }
}

static void leave(caller *caller)
{
    caller->state = PyEval_SaveThread();
}

void caller_end(caller *caller)
{
    if (!caller->state)
        return;
    PyEval_RestoreThread(caller->state);
    PyGILState_Release(caller->before);
    caller->state = NULL;
}

/* 0 where `answer` is what was asked for, which is the caller's then; else an errno, and the answer is released. */
static int errno_of(PyObject *answer)
{
    if (!answer) {
        PyErr_Clear();
        return EIO;
    }
    if (!PyLong_Check(answer))
        return 0;
    long code = PyLong_AsLong(answer);
    PyErr_Clear();
    Py_DECREF(answer);
    return code > 0 && code < 4096 ? (int)code : EIO;
}

static bool number(PyObject *tuple, Py_ssize_t index, uint64_t *into)
{
    PyObject *item = PyTuple_GetItem(tuple, index);
    if (!item || !PyLong_Check(item))
        return false;
    *into = PyLong_AsUnsignedLongLongMask(item);
    return !PyErr_Occurred();
}

/* (mode, ino, nlink, uid, gid, rdev, size, blocks, seconds, nanoseconds) */
static bool entry_from_python(PyObject *attributes, entry *into)
{
    uint64_t values[10];
    memset(into, 0, sizeof *into);
    if (!PyTuple_Check(attributes) || PyTuple_Size(attributes) != 10)
        return false;
    for (Py_ssize_t i = 0; i < 10; i++)
        if (!number(attributes, i, &values[i]))
            return false;
    into->mode = (uint16_t)values[0];
    into->ino = values[1];
    into->nlink = (uint32_t)values[2];
    into->uid = (uint32_t)values[3];
    into->gid = (uint32_t)values[4];
    into->rdev = (uint32_t)values[5];
    into->size = values[6];
    into->blocks = values[7];
    into->mtime = (int64_t)values[8];
    into->mtime_nsec = (uint32_t)values[9];
    into->flags = ASK_DATA | ASK_CHILDREN | ASK_XATTRS;
    return true;
}

int python_getattr(const question *asked, entry *into)
{
    enter(asked->caller);
    PyObject *answer =
        PyObject_CallMethod(asked->answers, "getattr", "y#", asked->path, (Py_ssize_t)asked->length);
    int error = errno_of(answer);
    if (!error) {
        if (!entry_from_python(answer, into))
            error = EIO;
        Py_DECREF(answer);
    }
    PyErr_Clear();
    leave(asked->caller);
    return error;
}

/* Copies an answer's bytes, at most `most`, and releases it. */
static int take_bytes(PyObject *answer, size_t most, area *into, size_t *size)
{
    Py_buffer view;
    int error = errno_of(answer);
    if (error)
        return error;
    if (PyObject_GetBuffer(answer, &view, PyBUF_SIMPLE) == 0) {
        *size = (size_t)view.len;
        if (*size > most || !area_grow(into, *size))
            error = EIO;
        else if (*size)
            memcpy(into->bytes, view.buf, *size);
        PyBuffer_Release(&view);
    } else {
        PyErr_Clear();
        error = EIO;
    }
    Py_DECREF(answer);
    return error;
}

int python_readlink(const question *asked, area *into, size_t *size)
{
    enter(asked->caller);
    PyObject *answer =
        PyObject_CallMethod(asked->answers, "readlink", "y#", asked->path, (Py_ssize_t)asked->length);
    int error = take_bytes(answer, MAX_TARGET, into, size);
    leave(asked->caller);
    return error;
}

int python_getxattr(const question *asked, const char *name, size_t length, area *into, size_t *size)
{
    enter(asked->caller);
    PyObject *answer = PyObject_CallMethod(asked->answers, "getxattr", "y#y#", asked->path, (Py_ssize_t)asked->length,
                                           name, (Py_ssize_t)length);
    int error = take_bytes(answer, MAX_TRANSFER, into, size);
    leave(asked->caller);
    return error;
}

int python_listxattr(const question *asked, area *into, size_t *size)
{
    enter(asked->caller);
    PyObject *answer =
        PyObject_CallMethod(asked->answers, "listxattr", "y#", asked->path, (Py_ssize_t)asked->length);
    int error = take_bytes(answer, MAX_TRANSFER, into, size);
    leave(asked->caller);
    return error;
}

int python_read(const question *asked, uint64_t offset, size_t most, area *into, size_t *size)
{
    enter(asked->caller);
    PyObject *answer = PyObject_CallMethod(asked->answers, "read", "y#nK", asked->path, (Py_ssize_t)asked->length,
                                           (Py_ssize_t)most, (unsigned long long)offset);
    int error = take_bytes(answer, most, into, size);
    leave(asked->caller);
    return error;
}

int python_statfs(const question *asked, struct fuse_kstatfs *into)
{
    uint64_t values[8];
    enter(asked->caller);
    PyObject *answer = PyObject_CallMethod(asked->answers, "statfs", NULL);
    int error = errno_of(answer);
    if (!error) {
        if (!PyTuple_Check(answer) || PyTuple_Size(answer) != 8)
            error = EIO;
        for (Py_ssize_t i = 0; !error && i < 8; i++)
            if (!number(answer, i, &values[i]))
                error = EIO;
        Py_DECREF(answer);
    }
    PyErr_Clear();
    leave(asked->caller);
    if (!error)
        *into = (struct fuse_kstatfs){.blocks = values[0], .bfree = values[1], .bavail = values[2], .files = values[3],
                                      .ffree = values[4], .bsize = (uint32_t)values[5],
                                      .namelen = (uint32_t)values[6], .frsize = (uint32_t)values[7]};
    return error;
}

static bool take_pair(PyObject *pair, take_child *take, void *context, int *error)
{
    entry child;
    char *name;
    Py_ssize_t length;
    if (!PyTuple_Check(pair) || PyTuple_Size(pair) != 2 || !entry_from_python(PyTuple_GetItem(pair, 1), &child) ||
        PyBytes_AsStringAndSize(PyTuple_GetItem(pair, 0), &name, &length) || !length || length > UINT16_MAX) {
        PyErr_Clear();
        *error = EIO;
        return false;
    }
    child.name_length = (uint16_t)length;
    return take(context, &child, name);
}

int python_readdir(const question *asked, uint64_t position, size_t room, take_child *take, void *context)
{
    enter(asked->caller);
    PyObject *answer = PyObject_CallMethod(asked->answers, "readdir", "y#Kn", asked->path, (Py_ssize_t)asked->length,
                                           (unsigned long long)position, (Py_ssize_t)room);
    int error = errno_of(answer);
    if (!error) {
        if (!PyList_Check(answer))
            error = EIO;
        for (Py_ssize_t i = 0; !error && i < PyList_Size(answer); i++)
            if (!take_pair(PyList_GetItem(answer, i), take, context, &error))
                break;
        Py_DECREF(answer);
    }
    PyErr_Clear();
    leave(asked->caller);
    return error;
}
