/* Where the last block of a deflate stream lies (RFC 1951, section 3.2), found without unpacking.

libdeflate ends every stream; a chunk that others follow must be left open, so its last block is to say that it is not
the last. What is skipped here is what libdeflate has just written; still, nothing is read beyond SLACK. */

#ifndef XTAR_BLOCKS_H
#define XTAR_BLOCKS_H

#include "../xtarfs/layout.h"

enum { MAX_CODE = 15, LENGTHS = 288, DISTANCES = 32, PRECODES = 19, MAX_PRECODE = 7, END_OF_BLOCK = 256, LOOK = 11 };
enum { SLACK = 32 }; /* bytes that must be readable behind a stream: a broken header's fields, and a word */

/* What the next bits are: how long their code is, how many there are with extra bits, and what stands behind them. */
typedef struct {
    uint8_t code, skip, then;
} Symbol;

/* What can come next: a literal or length, a distance, another block; nothing where no code fits. */
enum { NOTHING, BLOCK_HEADER, LENGTH, DISTANCE };

/* A canonical code. seen: symbols by the next LOOK bits, none where their code is longer; ordered: all by their
code. Of each length: the first code, how many there are, and the first one's place in `ordered`. */
typedef struct {
    Symbol seen[1 << LOOK], ordered[LENGTHS];
    unsigned first[MAX_CODE + 1], count[MAX_CODE + 1], start[MAX_CODE + 1];
} Code;

typedef struct {
    const uint8_t *stream;
    size_t at, size; /* in bits */
} Bits;

/* The next 57 bits at least. */
static inline uint64_t peek(const Bits *in) { return read64(in->stream + in->at / 8) >> in->at % 8; }

static unsigned take(Bits *in, int count) {
    unsigned value = (unsigned)(peek(in) & ((1u << count) - 1));
    in->at += (size_t)count;
    return value;
}

static Symbol length_symbol(unsigned symbol, uint8_t code) {
    if (symbol <= END_OF_BLOCK)
        return (Symbol){code, code, symbol < END_OF_BLOCK ? LENGTH : BLOCK_HEADER};
    unsigned extra = symbol < 265 || symbol > 284 ? 0 : (symbol - 261) / 4;
    return (Symbol){code, (uint8_t)(code + extra), symbol > 285 ? NOTHING : DISTANCE};
}

static Symbol distance_symbol(unsigned symbol, uint8_t code) {
    return (Symbol){code, (uint8_t)(code + (symbol < 4 ? 0 : symbol / 2 - 1)), symbol > 29 ? NOTHING : LENGTH};
}

static Symbol precode_symbol(unsigned symbol, uint8_t code) { return (Symbol){code, (uint8_t)symbol, LENGTH}; }

static void make_code(Code *code, const uint8_t *lengths, unsigned count, Symbol (*symbol_of)(unsigned, uint8_t)) {
    unsigned next[MAX_CODE + 1];
    memset(code, 0, sizeof *code);
    for (unsigned i = 0; i < count; i++)
        code->count[lengths[i]]++;
    code->count[0] = 0;
    for (int length = 1; length <= MAX_CODE; length++) {
        code->first[length] = (code->first[length - 1] + code->count[length - 1]) << 1;
        code->start[length] = code->start[length - 1] + code->count[length - 1];
    }
    memcpy(next, code->first, sizeof next);
    for (unsigned i = 0; i < count; i++) {
        unsigned length = lengths[i], place = 0;
        if (!length)
            continue;
        unsigned number = next[length]++;
        Symbol symbol = symbol_of(i, (uint8_t)length);
        code->ordered[code->start[length] + number - code->first[length]] = symbol;
        for (unsigned bit = 0; bit < length; bit++) /* codes come first bit lowest */
            place |= (number >> bit & 1) << (length - 1 - bit);
        for (; length <= LOOK && place < 1 << LOOK; place += 1u << length)
            code->seen[place] = symbol;
    }
}

static Symbol find_long(const Code *code, uint64_t word) {
    unsigned number = 0;
    for (int length = 1; length <= MAX_CODE; length++, word >>= 1) {
        number = number << 1 | (word & 1);
        if (number - code->first[length] < code->count[length]) /* smaller ones wrap round */
            return code->ordered[code->start[length] + number - code->first[length]];
    }
    return (Symbol){0, 0, NOTHING};
}

static Symbol look_up(const Code *code, uint64_t word) {
    Symbol seen = code->seen[word & ((1 << LOOK) - 1)];
    return seen.code ? seen : find_long(code, word);
}

/* The code lengths of a block of type 2, literals and lengths first. */
static bool read_lengths(Bits *in, Code *code, uint8_t *lengths, unsigned *literals, unsigned *distances) {
    static const uint8_t order[PRECODES] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    uint8_t precodes[PRECODES] = {0};
    *literals = 257 + take(in, 5);
    *distances = 1 + take(in, 5);
    unsigned given = 4 + take(in, 4), count = 0;
    for (unsigned i = 0; i < given; i++)
        precodes[order[i]] = (uint8_t)take(in, 3);
    make_code(code, precodes, PRECODES, precode_symbol);
    while (count < *literals + *distances && in->at < in->size) {
        Symbol symbol = look_up(code, peek(in));
        if (!symbol.code)
            return false;
        in->at += symbol.code;
        unsigned times = symbol.skip < 16    ? 1
                         : symbol.skip == 16 ? 3 + take(in, 2)
                         : symbol.skip == 17 ? 3 + take(in, 3)
                                             : 11 + take(in, 7);
        if (count + times > *literals + *distances || (symbol.skip == 16 && !count))
            return false;
        memset(lengths + count, symbol.skip < 16 ? symbol.skip : symbol.skip == 16 ? lengths[count - 1] : 0, times);
        count += times;
    }
    return count == *literals + *distances;
}

/* codes: of literals and lengths, and of distances. */
static bool skip_coded(Bits *in, bool dynamic, Code codes[2]) {
    uint8_t all[LENGTHS + DISTANCES];
    unsigned literals = LENGTHS, distances = DISTANCES, next = LENGTH;
    if (dynamic) {
        if (!read_lengths(in, codes, all, &literals, &distances))
            return false;
    } else {
        memset(all, 8, LENGTHS);
        memset(all + 144, 9, 256 - 144);
        memset(all + 256, 7, 280 - 256);
        memset(all + LENGTHS, 5, DISTANCES);
    }
    make_code(&codes[0], all, literals, length_symbol);
    make_code(&codes[1], all + literals, distances, distance_symbol);
    while (next >= LENGTH && in->at < in->size) {
        uint64_t word = peek(in);
        for (int i = 0; i < 2 && next >= LENGTH; i++) { /* a word has two at least; what is next costs no branch */
            Symbol symbol = look_up(&codes[next - LENGTH], word);
            word >>= symbol.skip;
            in->at += symbol.skip;
            next = symbol.then;
        }
    }
    return next == BLOCK_HEADER;
}

static void skip_stored(Bits *in) {
    in->at = (in->at + 7) / 8 * 8;
    in->at += 32 + 8 * (size_t)(peek(in) & 0xFFFF);
}

/* The bits of a whole stream of `size` bytes at which its last block begins and ends; false if there is no such. */
static bool find_last_block(const uint8_t *stream, size_t size, Code codes[2], size_t *start, size_t *end) {
    Bits in = {stream, 0, 8 * size};
    bool last = false;
    while (!last && in.at < in.size) {
        *start = in.at;
        last = take(&in, 1);
        unsigned type = take(&in, 2);
        if (type == 0)
            skip_stored(&in);
        else if (type == 3 || !skip_coded(&in, type == 2, codes))
            return false;
    }
    *end = in.at;
    return last && in.at <= in.size;
}

#endif
