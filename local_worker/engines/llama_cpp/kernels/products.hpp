// Products of quantised weights with some rows of activations, with AVX-512's integer dot products.
//
// Activations are quantised in blocks of 32, to eight bits and an FP32 scale each. Weights are read once
// for `most_rows` rows at a time. A result depends on its row of weights and its row of activations
// alone, bit by bit, and not on how many rows are beside these.
//
// In formats that ggml repacks, eight rows of weights lie together, eight bytes of each in turn: a register
// has numbers of all eight, which meet the same activations. In others, it has 64 of one row.
#pragma once

#include "vectors.hpp"

#include <algorithm>

namespace products {

constexpr int block = 32;  // activations that share a scale
constexpr int most_rows = 8;  // that the registers have room for

// A row of activations.
struct Row {
    const int8_t * numbers;
    const float * scales;  // of each block
    const int32_t * sums;  // of each block's numbers
};

enum class Format { none, q4_0_by_eight, q4_k_by_eight, q6_k, q8_0 };

// How weights in a format lie in memory: so many numbers in so many bytes.
struct Layout {
    int64_t numbers, bytes;
    int64_t size_of;  // a row's size is a multiple of that
    int64_t together;  // rows that lie together
};

constexpr Layout layout_of(Format format) {
    switch (format) {
        case Format::q4_0_by_eight: return {32, 18, 32, 8};
        case Format::q4_k_by_eight: return {256, 144, 256, 8};
        case Format::q6_k: return {256, 210, 256, 1};
        case Format::q8_0: return {32, 34, 64, 1};
        default: return {1, 0, 1, 1};
    }
}

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)

constexpr bool exist = true;

template <typename T>
inline T read(const void * at) {
    T value;
    memcpy(&value, at, sizeof value);
    return value;
}

inline __m512i nibbles(__m512i bytes, bool high) {
    return _mm512_and_si512(high ? _mm512_srli_epi16(bytes, 4) : bytes, _mm512_set1_epi8(15));
}

// Quantises some blocks of activations.
inline void quantise(const float * from, int64_t blocks, int8_t * numbers, float * scales, int32_t * sums) {
    for (int64_t b = 0; b < blocks; ++b, from += block, numbers += block) {
        const __m512 low = _mm512_loadu_ps(from), high = _mm512_loadu_ps(from + 16);
        const float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
        const __m512 factor = _mm512_set1_ps(most == 0.0f ? 0.0f : 127.0f / most);
        const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(low, factor));
        const __m512i b32 = _mm512_cvtps_epi32(_mm512_mul_ps(high, factor));
        _mm_storeu_si128((__m128i *) numbers, _mm512_cvtsepi32_epi8(a));
        _mm_storeu_si128((__m128i *) (numbers + 16), _mm512_cvtsepi32_epi8(b32));
        scales[b] = most / 127.0f;
        sums[b] = _mm512_reduce_add_epi32(_mm512_add_epi32(a, b32));
    }
}

// A block of eight rows of weights. Two lanes in a row are of one row of weights.
struct Eight {
    __m512i numbers[4];  // without sign: eight bytes of each row, and then the next eight
    __m512 scales;
    __m512 least;  // half of what is taken off the product for each unit of the activations' sum
};

inline __m512 in_two_lanes(__m256 of_rows) {
    const __m512i lanes = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    return _mm512_permutexvar_ps(lanes, _mm512_castps256_ps512(of_rows));
}

inline __m256 of_bytes(uint64_t bytes) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long) bytes)));
}

// Eight scales; then 16 times four numbers and four others of each row, less eight, in one byte each.
struct Q4_0 {
    static constexpr bool has_least = false;  // it is the same for all: the dot product begins with it
    static constexpr int64_t ahead = 16 * 144;  // to be fetched into the first cache

    static void decode(const char * weights, int64_t b, Eight & to) {
        const char * at = weights + b * 144;
        _mm_prefetch(at + ahead, _MM_HINT_T0);
        _mm_prefetch(at + ahead + 64, _MM_HINT_T0);
        const __m512i eights = _mm512_set1_epi8((char) 0x88);  // ggml has made nibbles signed
        const __m512i first = _mm512_xor_si512(_mm512_loadu_si512(at + 16), eights);
        const __m512i second = _mm512_xor_si512(_mm512_loadu_si512(at + 80), eights);
        to.numbers[0] = nibbles(first, false);
        to.numbers[1] = nibbles(second, false);
        to.numbers[2] = nibbles(first, true);
        to.numbers[3] = nibbles(second, true);
        to.scales = in_two_lanes(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) at)));
    }
};

// Eight scales of 256 numbers and eight of what is taken off, 6 bits for each block of 32 that go with
// these, and the numbers: those of a block in the low nibbles and those of the next in the high ones.
struct Q4_K {
    static constexpr bool has_least = true;

    static void decode(const char * weights, int64_t b, Eight & to) {
        const char * at = weights + b / 8 * 1152;
        const int of = (int) (b % 8);
        for (int i = 0; i < 4; ++i) {
            to.numbers[i] = nibbles(_mm512_loadu_si512(at + 128 + 64 * (of / 2 * 4 + i)), of % 2);
        }
        const char * packed = at + 32 + 12 * of;
        const uint32_t a = read<uint32_t>(packed), m = read<uint32_t>(packed + 4), rest = read<uint32_t>(packed + 8);
        const uint64_t high = (rest & 0x0F0F0F0F) | (a >> 2 & 0x30303030);
        const uint64_t high_least = (rest >> 4 & 0x0F0F0F0F) | (m >> 2 & 0x30303030);
        const __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) at));
        const __m256 least = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) (at + 16)));
        to.scales = in_two_lanes(_mm256_mul_ps(scale, of_bytes((a & 0x3F3F3F3F) | high << 32)));
        const __m256 half = _mm256_mul_ps(least, _mm256_set1_ps(0.5f));
        to.least = in_two_lanes(_mm256_mul_ps(half, of_bytes((m & 0x3F3F3F3F) | high_least << 32)));
    }
};

// GROUPS of eight rows of weights, each after the other, with ROWS of activations.
template <typename Weights, int GROUPS, int ROWS>
inline void multiply_eights(
    const char * weights, int64_t row_bytes, int64_t size, const Row * rows, float * const * outputs, int64_t first) {
    __m512 total[ROWS][GROUPS];
    for (auto & row : total) std::fill(row, row + GROUPS, _mm512_setzero_ps());
    for (int64_t b = 0; b < size / block; ++b) {
        Eight eight[GROUPS];
        for (int g = 0; g < GROUPS; ++g) Weights::decode(weights + g * 8 * row_bytes, b, eight[g]);
        for (int r = 0; r < ROWS; ++r) {
            const int8_t * at = rows[r].numbers + b * block;
            __m512i numbers[4];
            for (int i = 0; i < 4; ++i) numbers[i] = _mm512_set1_epi64(read<int64_t>(at + 8 * i));
            const __m512 scale = _mm512_set1_ps(rows[r].scales[b]);
            const __m512i sum = _mm512_set1_epi32(rows[r].sums[b]);
            for (int g = 0; g < GROUPS; ++g) {
                // Of weights that are eight too large, in two lanes.
                __m512i dot = Weights::has_least ? _mm512_setzero_si512() : _mm512_slli_epi32(sum, 2);
                if constexpr (!Weights::has_least) dot = _mm512_sub_epi32(_mm512_setzero_si512(), dot);
                for (int i = 0; i < 4; ++i) dot = _mm512_dpbusd_epi32(dot, eight[g].numbers[i], numbers[i]);
                __m512 & to = total[r][g];
                to = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(eight[g].scales, scale), to);
                if constexpr (Weights::has_least) {
                    to = _mm512_fnmadd_ps(eight[g].least, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale), to);
                }
            }
        }
    }
    for (int r = 0; r < ROWS; ++r) {
        for (int g = 0; g < GROUPS; ++g) {
            const __m512 both = _mm512_add_ps(total[r][g], _mm512_permute_ps(total[r][g], 0xB1));
            const __m512 of_rows = _mm512_maskz_compress_ps(0x5555, both);
            _mm256_storeu_ps(outputs[r] + first + 8 * g, _mm512_castps512_ps256(of_rows));
        }
    }
}

// 64 numbers of one row of weights, with sign, and the scale of each four of them.
struct SixtyFour {
    __m512i numbers;
    __m512 scales;
};

inline __m512 in_two_halves(float low, float high) {
    return _mm512_mask_blend_ps(0xFF00, _mm512_set1_ps(low), _mm512_set1_ps(high));
}

inline __m512i in_two_halves(int16_t low, int16_t high) {
    return _mm512_mask_blend_epi16(0xFFFF0000, _mm512_set1_epi16(low), _mm512_set1_epi16(high));
}

// Twice: 64 bytes of low nibbles, and 32 of two more bits each; then a scale for each 16, and one for these.
struct Q6_K {
    static constexpr int parts = 4;  // of 64 numbers, in `bytes`
    static constexpr int64_t bytes = 210, ahead = 16 * bytes;

    template <int PART>
    static void decode(const char * at, SixtyFour & to) {
        constexpr int half = PART / 2, nibble = PART % 2;
        const __m512i low = nibbles(_mm512_loadu_si512(at + 64 * half), nibble);
        const __m512i bits = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *) (at + 128 + 32 * half)));
        const __m512i moved = nibble ? _mm512_mask_srli_epi16(bits, 0xFFFF0000, bits, 2)
                                     : _mm512_sllv_epi16(bits, in_two_halves((int16_t) 4, (int16_t) 2));
        const __m512i high = _mm512_and_si512(moved, _mm512_set1_epi8(0x30));
        to.numbers = _mm512_sub_epi8(_mm512_or_si512(low, high), _mm512_set1_epi8(32));
        const __m128i of16 = _mm_cvtepi8_epi32(_mm_cvtsi32_si128(read<int32_t>(at + 192 + 4 * PART)));
        const __m128 scales = _mm_mul_ps(_mm_cvtepi32_ps(of16), _mm_set1_ps(_cvtsh_ss(read<uint16_t>(at + 208))));
        const __m512i lanes = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
        to.scales = _mm512_permutexvar_ps(lanes, _mm512_castps128_ps512(scales));
    }
};

// A scale, and 32 numbers of one byte; twice.
struct Q8_0 {
    static constexpr int parts = 1;
    static constexpr int64_t bytes = 68, ahead = 32 * bytes;

    template <int PART>
    static void decode(const char * at, SixtyFour & to) {
        const __m256i low = _mm256_loadu_si256((const __m256i *) (at + 2));
        const __m256i high = _mm256_loadu_si256((const __m256i *) (at + 36));
        to.numbers = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
        to.scales = in_two_halves(_cvtsh_ss(read<uint16_t>(at)), _cvtsh_ss(read<uint16_t>(at + 34)));
    }
};

// GROUPS of one row of weights with ROWS of activations.
template <typename Weights, int GROUPS, int ROWS>
inline void multiply_ones(
    const char * weights, int64_t row_bytes, int64_t size, const Row * rows, float * const * outputs, int64_t first) {
    const __m512i top = _mm512_set1_epi8((char) 0x80);  // the dot product's left side has no sign
    __m512 total[ROWS][GROUPS];
    for (auto & row : total) std::fill(row, row + GROUPS, _mm512_setzero_ps());
    const auto add = [&](auto part, int64_t unit) {
        constexpr int PART = decltype(part)::value;
        const int64_t at = unit * Weights::parts + PART;  // 64 numbers each
        SixtyFour of[GROUPS];
        __m512i begin[GROUPS];  // 128 is added to each activation
        for (int g = 0; g < GROUPS; ++g) {
            const char * from = weights + g * row_bytes + unit * Weights::bytes;
            _mm_prefetch(from + Weights::ahead + 64 * PART, _MM_HINT_T0);
            Weights::template decode<PART>(from, of[g]);
            const __m512i added = _mm512_dpbusd_epi32(_mm512_setzero_si512(), top, of[g].numbers);
            begin[g] = _mm512_sub_epi32(_mm512_setzero_si512(), added);
        }
        for (int r = 0; r < ROWS; ++r) {
            const __m512i numbers = _mm512_xor_si512(_mm512_loadu_si512(rows[r].numbers + at * 64), top);
            const __m512 scales = in_two_halves(rows[r].scales[2 * at], rows[r].scales[2 * at + 1]);
            for (int g = 0; g < GROUPS; ++g) {
                const __m512 dot = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(begin[g], numbers, of[g].numbers));
                total[r][g] = _mm512_fmadd_ps(dot, _mm512_mul_ps(of[g].scales, scales), total[r][g]);
            }
        }
    };
    for (int64_t unit = 0; unit < size / 64 / Weights::parts; ++unit) {
        add(std::integral_constant<int, 0>{}, unit);
        if constexpr (Weights::parts == 4) {
            add(std::integral_constant<int, 1>{}, unit);
            add(std::integral_constant<int, 2>{}, unit);
            add(std::integral_constant<int, 3>{}, unit);
        }
    }
    for (int r = 0; r < ROWS; ++r) {
        for (int g = 0; g < GROUPS; ++g) outputs[r][first + g] = attention::sum(total[r][g]);
    }
}

template <int ROWS>
inline void multiply_rows(
    Format format, const char * weights, int64_t count, int64_t size, const Row * rows, float * const * outputs) {
    const Layout layout = layout_of(format);
    const int64_t bytes = size / layout.numbers * layout.bytes;
    const auto in_pairs = [&](auto both, auto one) {
        int64_t i = 0;
        for (; i + 2 * layout.together <= count; i += 2 * layout.together) {
            both(weights + i * bytes, bytes, size, rows, outputs, i);
        }
        if (i < count) one(weights + i * bytes, bytes, size, rows, outputs, i);
    };
    switch (format) {
        case Format::q4_0_by_eight:
            return in_pairs(multiply_eights<Q4_0, 2, ROWS>, multiply_eights<Q4_0, 1, ROWS>);
        case Format::q4_k_by_eight:
            return in_pairs(multiply_eights<Q4_K, 2, ROWS>, multiply_eights<Q4_K, 1, ROWS>);
        case Format::q6_k: return in_pairs(multiply_ones<Q6_K, 2, ROWS>, multiply_ones<Q6_K, 1, ROWS>);
        case Format::q8_0: return in_pairs(multiply_ones<Q8_0, 2, ROWS>, multiply_ones<Q8_0, 1, ROWS>);
        default: return;
    }
}

// outputs[r][i] = weights[i] . rows[r], of `size` numbers, for `count` rows of weights, each after the
// other, and `many` rows of activations, up to `most_rows`. Sizes and counts are as `Layout` says.
inline void multiply(
    Format format, const char * weights, int64_t count, int64_t size, const Row * rows, int many,
    float * const * outputs) {
    switch (many) {
        case 1: return multiply_rows<1>(format, weights, count, size, rows, outputs);
        case 2: return multiply_rows<2>(format, weights, count, size, rows, outputs);
        case 3: return multiply_rows<3>(format, weights, count, size, rows, outputs);
        case 4: return multiply_rows<4>(format, weights, count, size, rows, outputs);
        case 5: return multiply_rows<5>(format, weights, count, size, rows, outputs);
        case 6: return multiply_rows<6>(format, weights, count, size, rows, outputs);
        case 7: return multiply_rows<7>(format, weights, count, size, rows, outputs);
        default: return multiply_rows<8>(format, weights, count, size, rows, outputs);
    }
}

#else

constexpr bool exist = false;

inline void quantise(const float *, int64_t, int8_t *, float *, int32_t *) {}
inline void multiply(Format, const char *, int64_t, int64_t, const Row *, int, float * const *) {}

#endif

}  // namespace products
