/* Deflate and CRC-32 from libdeflate, whose functions the shared object of the Python package `deflate` exports. */

#include "native.h"

#include <dlfcn.h>

static decompressor *(*alloc_decompressor)(void);
static void (*free_decompressor)(decompressor *);
static int (*deflate_decompress)(decompressor *, const void *, size_t, void *, size_t, size_t *);
static uint32_t (*crc32)(uint32_t, const void *, size_t);

bool engine_load(const char *library)
{
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        return false;
    *(void **)&alloc_decompressor = dlsym(handle, "libdeflate_alloc_decompressor");
    *(void **)&free_decompressor = dlsym(handle, "libdeflate_free_decompressor");
    *(void **)&deflate_decompress = dlsym(handle, "libdeflate_deflate_decompress");
    *(void **)&crc32 = dlsym(handle, "libdeflate_crc32");
    return alloc_decompressor && free_decompressor && deflate_decompress && crc32;
}

decompressor *engine_new(void)
{
    return alloc_decompressor();
}

void engine_free(decompressor *engine)
{
    if (engine)
        free_decompressor(engine);
}

bool engine_inflate(decompressor *engine, const uint8_t *packed, size_t length, uint8_t *out, size_t size)
{
    size_t got = 0;
    return deflate_decompress(engine, packed, length, out, size, &got) == 0 && got == size;
}

uint32_t engine_crc32(const uint8_t *data, size_t size)
{
    return crc32(0, data, size);
}
