// Quantised numbers as products take them: activations, and weights in the formats that there are.
//
// Activations are quantised in blocks of 32, to eight bits and an FP32 scale each.
//
// Twice eight rows of weights are multiplied together: a register has eight numbers of each of eight, which
// meet the same activations. Formats that ggml repacks have them in that order; others are brought into it.
#pragma once

#include "vectors.hpp"

#include <algorithm>
#include <cmath>

namespace products {

constexpr int block = 32;  // activations that share a scale

// A row of activations.
struct Row {
    const int8_t * numbers;
    const float * scales;  // of each block
    const int32_t * sums;  // two of each block: what is added to dot products, see `quantise`
};

enum class Format { none, q4_0_by_eight, q4_k_by_eight, q6_k, q8_0 };

// How weights in a format lie in memory: so many numbers in so many bytes.
struct Layout {
    int64_t numbers, bytes;
    int64_t together;  // rows that lie together
};

constexpr Layout layout_of(Format format) {
    switch (format) {
        case Format::q4_0_by_eight: return {32, 18, 8};
        case Format::q4_k_by_eight: return {256, 144, 8};
        case Format::q6_k: return {256, 210, 1};
        case Format::q8_0: return {32, 34, 1};
        default: return {1, 0, 1};
    }
}

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)
#define LOCAL_WORKER_PRODUCTS  // there are some for the processor

template <typename T>
inline T read(const void * at) {
    T value;
    memcpy(&value, at, sizeof value);
    return value;
}

inline __m512i nibbles(__m512i bytes, bool high) {
    return _mm512_and_si512(high ? _mm512_srli_epi16(bytes, 4) : bytes, _mm512_set1_epi8(15));
}

// Sums of what is infinite may be too large.
inline int32_t times(int factor, int32_t sum) { return (int32_t) ((uint32_t) factor * (uint32_t) sum); }

// Quantises some blocks of activations for weights in a format.
//
// Weights are multiplied without sign, which makes numbers `n` too large: for that, `-n` times the sum of the
// activations is added. In Q6_K that is for each half of a block; in Q4_K, which has a number for each block
// to be taken off, it is the sum itself.
inline void quantise(
    Format format, const float * from, int64_t blocks, int8_t * numbers, float * scales, int32_t * sums) {
    for (int64_t b = 0; b < blocks; ++b, from += block, numbers += block, sums += 2) {
        const __m512 low = _mm512_loadu_ps(from), high = _mm512_loadu_ps(from + 16);
        const float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
        const __m512 factor = _mm512_set1_ps(most < 1e-30f ? 0.0f : 127.0f / most);
        const __m512i first = _mm512_cvtps_epi32(_mm512_mul_ps(low, factor));
        const __m512i second = _mm512_cvtps_epi32(_mm512_mul_ps(high, factor));
        _mm_storeu_si128((__m128i *) numbers, _mm512_cvtsepi32_epi8(first));
        _mm_storeu_si128((__m128i *) (numbers + 16), _mm512_cvtsepi32_epi8(second));
        // Not a number stays that: the largest may have left it out.
        scales[b] = _mm512_cmp_ps_mask(low, high, _CMP_UNORD_Q) ? NAN : most / 127.0f;
        if (format == Format::q6_k) {
            sums[0] = times(-32, _mm512_reduce_add_epi32(first));
            sums[1] = times(-32, _mm512_reduce_add_epi32(second));
            continue;
        }
        const int32_t sum = _mm512_reduce_add_epi32(_mm512_add_epi32(first, second));
        const int factor_of_sum = format == Format::q4_0_by_eight ? -8 : format == Format::q8_0 ? -128 : 1;
        sums[0] = sums[1] = times(factor_of_sum, sum);
    }
}

// A block of twice eight rows of weights.
struct Sixteen {
    __m512i numbers[2][4];  // without sign: eight bytes of each of eight rows, and then the next eight
    __m512 scales[2];  // of each half of the block; where these have one, the first
    __m512 least;  // what is taken off the product for each unit of the activations' sum
};

// In the order in which their dot products come out: two of the first eight, two of the second.
inline __m512 in_order(__m256 first, __m256 second) {
    const __m512i lanes = _mm512_set_epi32(23, 22, 7, 6, 21, 20, 5, 4, 19, 18, 3, 2, 17, 16, 1, 0);
    return _mm512_permutex2var_ps(_mm512_castps256_ps512(first), lanes, _mm512_castps256_ps512(second));
}

inline __m256 halves(const void * at) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) at)); }

inline __m256 of_bytes(uint64_t bytes) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long) bytes)));
}

// Eight scales; then 16 times four numbers and four others of each row, less eight, in one byte each.
struct Q4_0 {
    static constexpr bool has_least = false, has_halves = false;
    static constexpr int64_t ahead = 16 * 144;  // to be fetched into the first cache
    const char * weights[2];

    void decode(int64_t b, Sixteen & to) const {
        const __m512i eights = _mm512_set1_epi8((char) 0x88);  // ggml has made nibbles signed
        for (int g = 0; g < 2; ++g) {
            const char * at = weights[g] + b * 144;
            _mm_prefetch(at + ahead, _MM_HINT_T0);
            _mm_prefetch(at + ahead + 64, _MM_HINT_T0);
            const __m512i first = _mm512_xor_si512(_mm512_loadu_si512(at + 16), eights);
            const __m512i second = _mm512_xor_si512(_mm512_loadu_si512(at + 80), eights);
            to.numbers[g][0] = nibbles(first, false);
            to.numbers[g][1] = nibbles(second, false);
            to.numbers[g][2] = nibbles(first, true);
            to.numbers[g][3] = nibbles(second, true);
        }
        to.scales[0] = in_order(halves(weights[0] + b * 144), halves(weights[1] + b * 144));
    }
};

// Eight scales of 256 numbers and eight of what is taken off, 6 bits for each block of 32 that go with
// these, and the numbers: those of a block in the low nibbles and those of the next in the high ones.
struct Q4_K {
    static constexpr bool has_least = true, has_halves = false;
    const char * weights[2];

    void decode(int64_t b, Sixteen & to) const {
        const int of = (int) (b % 8);
        __m256 scales[2], least[2];
        for (int g = 0; g < 2; ++g) {
            const char * at = weights[g] + b / 8 * 1152;
            for (int i = 0; i < 4; ++i) {
                to.numbers[g][i] = nibbles(_mm512_loadu_si512(at + 128 + 64 * (of / 2 * 4 + i)), of % 2);
            }
            const char * packed = at + 32 + 12 * of;
            const uint32_t a = read<uint32_t>(packed), m = read<uint32_t>(packed + 4);
            const uint32_t rest = read<uint32_t>(packed + 8);
            const uint64_t high = (rest & 0x0F0F0F0F) | (a >> 2 & 0x30303030);
            const uint64_t high_least = (rest >> 4 & 0x0F0F0F0F) | (m >> 2 & 0x30303030);
            scales[g] = _mm256_mul_ps(halves(at), of_bytes((a & 0x3F3F3F3F) | high << 32));
            least[g] = _mm256_mul_ps(halves(at + 16), of_bytes((m & 0x3F3F3F3F) | high_least << 32));
        }
        to.scales[0] = in_order(scales[0], scales[1]);
        to.least = in_order(least[0], least[1]);
    }
};

// Eight times eight of eight bytes, with rows and columns exchanged.
inline void transpose(__m512i (&x)[8]) {
    __m512i y[8];
    for (int i = 0; i < 8; i += 2) {
        y[i] = _mm512_unpacklo_epi64(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi64(x[i], x[i + 1]);
    }
    for (int i = 0; i < 2; ++i) {  // columns i, i + 2, i + 4 and i + 6
        const __m512i a = _mm512_shuffle_i64x2(y[i], y[i + 2], 0x88);
        const __m512i b = _mm512_shuffle_i64x2(y[i], y[i + 2], 0xDD);
        const __m512i c = _mm512_shuffle_i64x2(y[i + 4], y[i + 6], 0x88);
        const __m512i d = _mm512_shuffle_i64x2(y[i + 4], y[i + 6], 0xDD);
        x[i] = _mm512_shuffle_i64x2(a, c, 0x88);
        x[i + 4] = _mm512_shuffle_i64x2(a, c, 0xDD);
        x[i + 2] = _mm512_shuffle_i64x2(b, d, 0x88);
        x[i + 6] = _mm512_shuffle_i64x2(b, d, 0xDD);
    }
}

// Eight bytes of eight rows each, from 32 of each row.
inline void transpose(const char * const * rows, int64_t at, __m512i (&x)[4]) {
    const auto two = [&](int i, int j) {
        const __m256i a = _mm256_loadu_si256((const __m256i *) (rows[i] + at));
        const __m256i b = _mm256_loadu_si256((const __m256i *) (rows[j] + at));
        return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
    };
    const __m512i a = two(0, 2), b = two(1, 3), c = two(4, 6), d = two(5, 7);
    const __m512i even = _mm512_unpacklo_epi64(a, b), other_even = _mm512_unpacklo_epi64(c, d);
    const __m512i odd = _mm512_unpackhi_epi64(a, b), other_odd = _mm512_unpackhi_epi64(c, d);
    x[0] = _mm512_shuffle_i64x2(even, other_even, 0x88);
    x[1] = _mm512_shuffle_i64x2(odd, other_odd, 0x88);
    x[2] = _mm512_shuffle_i64x2(even, other_even, 0xDD);
    x[3] = _mm512_shuffle_i64x2(odd, other_odd, 0xDD);
}

inline __m256 halves_at(const char * const * rows, int64_t at) {
    short h[8];
    for (int i = 0; i < 8; ++i) h[i] = read<short>(rows[i] + at);
    return _mm256_cvtph_ps(_mm_set_epi16(h[7], h[6], h[5], h[4], h[3], h[2], h[1], h[0]));
}

// Twice: 64 bytes of low nibbles, and 32 of two more bits each; then a scale for each 16, and one for these.
struct Q6_K {
    static constexpr int64_t blocks = 8, bytes = 210;
    static constexpr bool has_halves = true;

    // Eight rows: the first or second eight of each block. `next` is fetched into the first cache.
    static void pack(const char * const * rows, const char * next, int eight, Sixteen * to, __m256 (*scales)[2]) {
        for (int half = 0; half < 2; ++half) {
            __m512i low[8], high[4];
            for (int i = 0; i < 8; ++i) {
                low[i] = _mm512_loadu_si512(rows[i] + 64 * half);
                _mm_prefetch(next + 128 * (8 * half + i), _MM_HINT_T0);
                _mm_prefetch(next + 128 * (8 * half + i) + 64, _MM_HINT_T0);
            }
            transpose(low);
            transpose(rows, 128 + 32 * half, high);
            Sixteen * four = to + 4 * half;
            for (int i = 0; i < 4; ++i) {
                four[0].numbers[eight][i] = join(nibbles(low[i], false), _mm512_slli_epi16(high[i], 4));
                four[1].numbers[eight][i] = join(nibbles(low[4 + i], false), _mm512_slli_epi16(high[i], 2));
                four[2].numbers[eight][i] = join(nibbles(low[i], true), high[i]);
                four[3].numbers[eight][i] = join(nibbles(low[4 + i], true), _mm512_srli_epi16(high[i], 2));
            }
        }
        alignas(64) char of_rows[16][8];
        transpose_scales(rows, of_rows);
        const __m256 all = halves_at(rows, 208);
        for (int i = 0; i < 16; ++i) {
            const __m256i whole = _mm256_cvtepi8_epi32(_mm_cvtsi64_si128(read<long long>(of_rows[i])));
            scales[i / 2][i % 2] = _mm256_mul_ps(_mm256_cvtepi32_ps(whole), all);
        }
    }

  private:
    static __m512i join(__m512i low, __m512i high) {
        return _mm512_ternarylogic_epi64(low, high, _mm512_set1_epi8(0x30), 0xF8);  // low | (high & 0x30)
    }

    static void transpose_scales(const char * const * rows, char (*to)[8]) {
        __m128i x[8], y[8];
        for (int i = 0; i < 8; ++i) x[i] = _mm_loadu_si128((const __m128i *) (rows[i] + 192));
        for (int i = 0; i < 4; ++i) {  // pairs of rows that are four apart, then all four with these, then all
            y[2 * i] = _mm_unpacklo_epi8(x[i], x[i + 4]);
            y[2 * i + 1] = _mm_unpackhi_epi8(x[i], x[i + 4]);
        }
        for (int i = 0; i < 4; ++i) {
            x[2 * i] = _mm_unpacklo_epi8(y[i], y[i + 4]);
            x[2 * i + 1] = _mm_unpackhi_epi8(y[i], y[i + 4]);
        }
        for (int i = 0; i < 4; ++i) {
            _mm_storeu_si128((__m128i *) to[4 * i], _mm_unpacklo_epi8(x[i], x[i + 4]));
            _mm_storeu_si128((__m128i *) to[4 * i + 2], _mm_unpackhi_epi8(x[i], x[i + 4]));
        }
    }
};

// A scale, and 32 numbers of one byte.
struct Q8_0 {
    static constexpr int64_t blocks = 1, bytes = 34;
    static constexpr bool has_halves = false;

    static void pack(const char * const * rows, const char * next, int eight, Sixteen * to, __m256 (*scales)[2]) {
        for (int64_t line = 0; line < 8 * bytes; line += 64) _mm_prefetch(next + line, _MM_HINT_T0);
        transpose(rows, 2, to->numbers[eight]);
        const __m512i top = _mm512_set1_epi8((char) 0x80);  // 128 more
        for (auto & numbers : to->numbers[eight]) numbers = _mm512_xor_si512(numbers, top);
        scales[0][0] = halves_at(rows, 0);
    }
};

// Brings twice eight rows of weights, or the last ones, into the order of `Sixteen`: one for each block.
template <typename Weights>
inline void pack(const char * weights, int64_t row_bytes, int64_t count, int64_t size, Sixteen * to) {
    const char * rows[16];
    for (int i = 0; i < 16; ++i) rows[i] = weights + std::min<int64_t>(i, count - 1) * row_bytes;
    const char * next = weights + 16 * row_bytes;
    for (int64_t unit = 0; unit < size / block / Weights::blocks; ++unit, to += Weights::blocks) {
        __m256 scales[2][Weights::blocks][2];
        for (int eight = 0; eight < 2; ++eight, next += 8 * Weights::bytes) {
            Weights::pack(rows + 8 * eight, next, eight, to, scales[eight]);
        }
        for (int b = 0; b < Weights::blocks; ++b) {
            for (int i = 0; i <= Weights::has_halves; ++i) {
                to[b].scales[i] = in_order(scales[0][b][i], scales[1][b][i]);
            }
        }
        for (const char *& row : rows) row += Weights::bytes;
    }
}

#endif

}  // namespace products
