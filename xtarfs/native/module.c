/* The Python face of the request loop: `Session`, and what tests ask of the decoders. */

#include "native.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    PyObject_HEAD
    session *session;
} Session;

static void session_free(session *session)
{
    table_clear(&session->table);
    shelf_clear(&session->shelf);
    pieces_clear(&session->pieces);
    reader_clear(&session->prefetcher.reader);
    Py_XDECREF(session->answers);
    free(session);
}

static void Session_dealloc(Session *self)
{
    PyTypeObject *type = Py_TYPE(self);
    /* Threads that did not end keep what they work on. */
    if (self->session && !self->session->running)
        session_free(self->session);
    type->tp_free(self);
    Py_DECREF(type);
}

static void set_root(session *session, unsigned long long start, unsigned long long length,
                     unsigned long long structure, unsigned long long size, unsigned index)
{
    uint64_t most = session->shelf.size;
    entry *root = &session->table.root->entry;
    if (session->archive < 0 || length > most || start > most - length || structure > most || size > most - structure ||
        index > size || size > UINT32_MAX)
        return;
    root->start = start;
    root->length = length;
    root->structure = structure;
    root->structure_size = (uint32_t)size;
    root->index_length = index;
    root->flags &= (uint16_t)~ASK_CHILDREN;
}

static int Session_init(Session *self, PyObject *arguments, PyObject *names)
{
    static char *keys[] = {"device", "ended", "answers", "archive", "size", "root", "catalogue", "cache",
                           "timeout", "changes", "uid", "gid", "umask", "owner", NULL};
    PyObject *answers, *root;
    int device, ended, archive, changes;
    unsigned long long size, catalogue, cache, timeout;
    long long uid, gid, owner;
    unsigned umask;
    if (self->session) {
        PyErr_SetString(PyExc_RuntimeError, "a session begins once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(arguments, names, "iiO$iKOKKKpLLIL", keys, &device, &ended, &answers, &archive,
                                     &size, &root, &catalogue, &cache, &timeout, &changes, &uid, &gid, &umask, &owner))
        return -1;
    session *made = calloc(1, sizeof *made);
    if (!made || !table_init(&made->table)) {
        free(made);
        PyErr_NoMemory();
        return -1;
    }
    made->device = device;
    made->archive = archive;
    made->ended = ended;
    made->appearance = (appearance){timeout, changes, uid, gid, umask, owner};
    made->answers = Py_NewRef(answers);
    pthread_mutex_init(&made->lock, NULL);
    pthread_cond_init(&made->wanted, NULL);
    shelf_init(&made->shelf, archive, size, catalogue);
    pieces_init(&made->pieces, cache);
    pthread_mutex_init(&made->prefetcher.lock, NULL);
    self->session = made;
    if (root != Py_None) {
        unsigned long long start, length, structure, structure_size;
        unsigned index;
        if (!PyArg_ParseTuple(root, "KKKKI", &start, &length, &structure, &structure_size, &index))
            return -1;
        set_root(made, start, length, structure, structure_size, index);
    }
    return 0;
}

static PyObject *Session_start(Session *self, PyObject *Py_UNUSED(ignored))
{
    if (!self->session || !session_start(self->session))
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *Session_end(Session *self, PyObject *seconds)
{
    long limit = PyLong_AsLong(seconds);
    bool ended = true;
    if (limit == -1 && PyErr_Occurred())
        return NULL;
    if (self->session) {
        Py_BEGIN_ALLOW_THREADS;
        ended = session_end(self->session, (int)limit);
        Py_END_ALLOW_THREADS;
    }
    return PyBool_FromLong(ended);
}

static PyObject *Session_last_request(Session *self, void *Py_UNUSED(ignored))
{
    return PyFloat_FromDouble(self->session ? (double)self->session->last_request / 1e9 : 0);
}

static PyMethodDef Session_methods[] = {
    {"start", (PyCFunction)Session_start, METH_NOARGS, "Starts answering requests, in threads of its own."},
    {"end", (PyCFunction)Session_end, METH_O, "Waits up to SECONDS for the threads to end; whether they did."},
    {0},
};

static PyGetSetDef Session_getset[] = {
    {"last_request", (getter)Session_last_request, NULL, "When the last request came, on the monotonic clock.", NULL},
    {0},
};

static PyType_Slot Session_slots[] = {
    {Py_tp_init, Session_init},
    {Py_tp_dealloc, Session_dealloc},
    {Py_tp_methods, Session_methods},
    {Py_tp_getset, Session_getset},
    {0},
};

static PyType_Spec Session_spec = {"xtarfs.native.loop.Session", sizeof(Session), 0, Py_TPFLAGS_DEFAULT, Session_slots};

/* --- functions --- */

static PyObject *load_engine(PyObject *Py_UNUSED(module), PyObject *path)
{
    const char *library = PyUnicode_AsUTF8(path);
    if (!library)
        return NULL;
    return PyBool_FromLong(engine_load(library));
}

static PyObject *decode_block(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Py_buffer packed;
    int has_header;
    unsigned long long start, length;
    if (!PyArg_ParseTuple(arguments, "y*pKK", &packed, &has_header, &start, &length))
        return NULL;
    origin origin = {start, length, 0};
    size_t size;
    block *decoded = NULL;
    char *plain = block_unpack(packed.buf, (size_t)packed.len, &size);
    PyBuffer_Release(&packed);
    if (plain)
        decoded = block_parse(plain, plain + size, has_header, &origin);
    free(plain);
    if (!decoded)
        Py_RETURN_NONE;
    PyObject *rows = PyList_New(0);
    for (size_t i = 0; rows && i < decoded->count; i++) {
        const entry *e = &decoded->rows[i].entry;
        const char *name = decoded->text + decoded->rows[i].name;
        PyObject *item = Py_BuildValue("y#y#IKKKLIIIIIKKKIII", name, (Py_ssize_t)e->name_length, name + e->name_length,
                                       (Py_ssize_t)e->target_length, (unsigned)e->mode, e->ino, e->size, e->blocks,
                                       (long long)e->mtime, e->mtime_nsec, e->nlink, e->uid, e->gid, e->rdev, e->data,
                                       e->packed, e->index, e->chunk, e->crc, (unsigned)e->flags);
        if (!item || PyList_Append(rows, item))
            Py_CLEAR(rows);
        Py_XDECREF(item);
    }
    block_free(decoded);
    return rows;
}

static PyMethodDef functions[] = {
    {"load_engine", load_engine, METH_O, "Takes libdeflate's functions from a shared object; whether it has them."},
    {"decode_block", decode_block, METH_VARARGS,
     "decode_block(block, header, start, length): the rows of a structure block, None where Python must be asked."},
    {0},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "loop",
    .m_doc = "A FUSE request loop that reads archives by itself.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit_loop(void)
{
    PyObject *module = PyModule_Create(&definition);
    PyObject *type = module ? PyType_FromSpec(&Session_spec) : NULL;
    if (!type || PyModule_AddObject(module, "Session", type)) {
        Py_XDECREF(type);
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}
