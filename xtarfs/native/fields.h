/* One line of a structure file, taken apart. */

#ifndef XTAR_FIELDS_H
#define XTAR_FIELDS_H

#include "json.h"

typedef struct {
    uint64_t at, size, index, catalogue;
} place;

/* The fields of a record, as they stand. */
typedef struct {
    string name, name_b64, type, mode, user, group, mtime, method, crc32, sha256, packed_crc32;
    string target, target_b64, link, link_b64;
    uint64_t ino, size, at, data, packed, chunk, index, table_copy, files, total, holes, holes_end;
    uint32_t uid, gid, nlink, major, minor;
    place structure;
    bool has_structure, has_xattrs, unknown;
    uint64_t seen;
} fields;

/* The object from *in on, as the builder writes it; false: ask Python. */
bool fields_parse(cursor *in, fields *into);

/* What text fields stand for; false where it is something else. */
bool field_is(const string *value, const char *text);
bool field_octal(const string *from, uint32_t *into);
bool field_hex(const string *from, uint32_t *into);
/* Decimal seconds as whole seconds, rounded down, and the nanoseconds beyond. */
bool field_time(const string *from, int64_t *seconds, uint32_t *nanoseconds);
bool field_is_name(const char *name, size_t length);

#endif
