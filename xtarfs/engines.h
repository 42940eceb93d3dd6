/* The engine of the `deflate` wheel, and SHA-256 of hashlib's libcrypto, called without Python.

It is the same machine code that format/codec.py calls, taken from the modules that Python has loaded, so that
compiled and interpreted code cannot differ in a byte. Declarations: libdeflate.h 1.x, openssl/evp.h. */

#ifndef XTAR_ENGINES_H
#define XTAR_ENGINES_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

static struct {
    uint32_t (*crc32)(uint32_t, const void *, size_t);
    void *(*alloc_compressor)(int);
    void (*free_compressor)(void *);
    size_t (*compress)(void *, const void *, size_t, void *, size_t);
    size_t (*compress_bound)(void *, size_t);
    void *(*alloc_decompressor)(void);
    void (*free_decompressor)(void *);
    int (*decompress)(void *, const void *, size_t, void *, size_t, size_t *);
    const void *(*sha256)(void);
    void *(*digest_new)(void);
    void (*digest_free)(void *);
    int (*digest_init)(void *, const void *, void *);
    int (*digest_update)(void *, const void *, size_t);
    int (*digest_final)(void *, unsigned char *, unsigned *);
} engines;

typedef struct {
    const char *symbol;
    void *function;
} Engine;

static bool load_engines(const char *module, const Engine *wanted, size_t count) {
    PyObject *loaded = PyImport_ImportModule(module);
    PyObject *file = loaded ? PyObject_GetAttrString(loaded, "__file__") : NULL;
    PyObject *path = NULL;
    void *library = NULL;
    if (file && PyUnicode_FSConverter(file, &path))
        library = dlopen(PyBytes_AS_STRING(path), RTLD_NOW | RTLD_LOCAL);
    Py_XDECREF(path);
    Py_XDECREF(file);
    Py_XDECREF(loaded);
    for (size_t i = 0; library && i < count; i++) {
        void *address = dlsym(library, wanted[i].symbol); /* also finds what the library is linked with */
        if (!address)
            library = NULL;
        else
            memcpy(wanted[i].function, &address, sizeof address);
    }
    if (!library)
        PyErr_Format(PyExc_ImportError, "%s does not export what is needed", module);
    return library != NULL;
}

#define COUNT(array) (sizeof(array) / sizeof *(array))

static bool load_reading_engines(void) {
    const Engine deflate[] = {
        {"libdeflate_crc32", &engines.crc32},
        {"libdeflate_alloc_decompressor", &engines.alloc_decompressor},
        {"libdeflate_free_decompressor", &engines.free_decompressor},
        {"libdeflate_deflate_decompress", &engines.decompress},
    };
    const Engine crypto[] = {
        {"EVP_sha256", &engines.sha256},
        {"EVP_MD_CTX_new", &engines.digest_new},
        {"EVP_MD_CTX_free", &engines.digest_free},
        {"EVP_DigestInit_ex", &engines.digest_init},
        {"EVP_DigestUpdate", &engines.digest_update},
        {"EVP_DigestFinal_ex", &engines.digest_final},
    };
    return load_engines("deflate._deflate", deflate, COUNT(deflate)) && load_engines("_hashlib", crypto, COUNT(crypto));
}

/* A context for sha256(); looking the algorithm up takes longer than hashing a small file. */
static void *new_digest(void) {
    void *digest = engines.digest_new();
    if (digest && !engines.digest_init(digest, engines.sha256(), NULL)) {
        engines.digest_free(digest);
        digest = NULL;
    }
    return digest;
}

static bool sha256(void *digest, const uint8_t *data, size_t size, uint8_t sum[32]) {
    return engines.digest_init(digest, NULL, NULL) && engines.digest_update(digest, data, size) &&
           engines.digest_final(digest, sum, NULL);
}

/* What PyArg_ParseTuple takes for granted. */
static bool require_tuple(PyObject *object) {
    if (!PyTuple_Check(object))
        PyErr_SetString(PyExc_TypeError, "a tuple is needed");
    return PyTuple_Check(object);
}

#endif
