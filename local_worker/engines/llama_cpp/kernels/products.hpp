// Products of quantised weights with some rows of activations, with AVX-512's integer dot products.
//
// A result depends on its row of weights and its row of activations alone, bit by bit, and not on how many
// rows are beside these: its sums are taken block by block, and within a block in whole numbers.
#pragma once

#include "formats.hpp"

#include <vector>

namespace products {

// Some rows of weights, in whole groups, that are to be multiplied with some rows of activations.
struct Task {
    Format format;
    const char * weights;
    int64_t count;  // of rows of weights, each after the other
    int64_t size;  // numbers of a row
    const Row * rows;
    float * const * outputs;  // outputs[r][i] = weights[i] . rows[r]
    int64_t many;  // rows of activations

    int64_t bytes() const { return size / layout_of(format).numbers * layout_of(format).bytes; }  // of a row
};

#ifdef LOCAL_WORKER_PRODUCTS

constexpr bool exist = true;

// What `pack` has made of the formats that need it.
template <bool HALVES>
struct Packed {
    static constexpr bool has_least = false, has_halves = HALVES;
    const Sixteen * packed;

    void decode(int64_t b, Sixteen & to) const { to = packed[b]; }
};

// Dot products of eight numbers of each row at a time, in two lanes of a row: those of a block's FROM-th
// eight to the one before its TO-th.
template <int FROM, int TO>
inline __m512i dots(const __m512i (&weights)[4], const __m512i (&numbers)[4]) {
    __m512i dot = _mm512_setzero_si512();
    for (int i = FROM; i < TO; ++i) dot = _mm512_dpbusd_epi32(dot, weights[i], numbers[i]);
    return dot;
}

// `sum` and what is in the two lanes of each row.
inline __m512 whole(__m512i first, __m512i second, __m512i sum) {
    const __m512 a = _mm512_castsi512_ps(first), b = _mm512_castsi512_ps(second);
    const __m512i even = _mm512_castps_si512(_mm512_shuffle_ps(a, b, 0x88));
    const __m512i odd = _mm512_castps_si512(_mm512_shuffle_ps(a, b, 0xDD));
    return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_add_epi32(even, odd), sum));
}

// Twice eight rows of weights with ROWS of activations.
//
// Not inlined: it takes all registers that there are.
template <typename Weights, int ROWS>
__attribute__((noinline)) void multiply_tile(
    const Weights & weights, int64_t size, const Row * rows, __m512 * results) {
    __m512 total[ROWS];
    std::fill(total, total + ROWS, _mm512_setzero_ps());
    for (int64_t b = 0; b < size / block; ++b) {
        Sixteen of;
        weights.decode(b, of);
        for (int r = 0; r < ROWS; ++r) {
            const int8_t * at = rows[r].numbers + b * block;
            __m512i numbers[4];
            for (int i = 0; i < 4; ++i) numbers[i] = _mm512_set1_epi64(read<int64_t>(at + 8 * i));
            const __m512 scale = _mm512_set1_ps(rows[r].scales[b]);
            const __m512i (&low)[4] = of.numbers[0], (&high)[4] = of.numbers[1];
            const __m512i sum = _mm512_set1_epi32(rows[r].sums[2 * b]);
            if constexpr (Weights::has_halves) {
                const __m512i other = _mm512_set1_epi32(rows[r].sums[2 * b + 1]);
                const __m512 first = whole(dots<0, 2>(low, numbers), dots<0, 2>(high, numbers), sum);
                const __m512 second = whole(dots<2, 4>(low, numbers), dots<2, 4>(high, numbers), other);
                total[r] = _mm512_fmadd_ps(first, _mm512_mul_ps(of.scales[0], scale), total[r]);
                total[r] = _mm512_fmadd_ps(second, _mm512_mul_ps(of.scales[1], scale), total[r]);
            } else {
                const __m512i added = Weights::has_least ? _mm512_setzero_si512() : sum;
                const __m512 dot = whole(dots<0, 4>(low, numbers), dots<0, 4>(high, numbers), added);
                total[r] = _mm512_fmadd_ps(dot, _mm512_mul_ps(of.scales[0], scale), total[r]);
            }
            if constexpr (Weights::has_least) {
                const __m512 all = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
                total[r] = _mm512_fnmadd_ps(of.least, all, total[r]);
            }
        }
    }
    for (int r = 0; r < ROWS; ++r) results[r] = total[r];
}

// Calls `part` for all that are left, if these are up to MOST.
template <int MOST, typename Part>
inline void for_the_rest(int64_t left, int64_t r, Part part) {
    if (left == MOST) return part(std::integral_constant<int, MOST>{}, r);
    if constexpr (MOST > 1) for_the_rest<MOST - 1>(left, r, part);
}

// Calls `part` for MOST rows of activations at a time, and for those that are left.
template <int MOST, typename Part>
inline void in_tiles(int64_t many, Part part) {
    int64_t r = 0;
    for (; r + MOST <= many; r += MOST) part(std::integral_constant<int, MOST>{}, r);
    for_the_rest<MOST - 1>(many - r, r, part);
}

// Twice eight rows of weights, or the last ones, from `i` on, with a few activations, from `r` on.
template <int ROWS, typename Weights>
inline void multiply_some(const Task & task, const Weights & weights, int64_t i, int64_t r) {
    const __m512i lanes = _mm512_set_epi32(15, 14, 11, 10, 7, 6, 3, 2, 13, 12, 9, 8, 5, 4, 1, 0);  // as they lie
    const __mmask16 there = (1u << std::min<int64_t>(16, task.count - i)) - 1;
    __m512 results[ROWS];
    multiply_tile<Weights, ROWS>(weights, task.size, task.rows + r, results);
    for (int row = 0; row < ROWS; ++row) {
        const __m512 result = _mm512_permutexvar_ps(lanes, results[row]);
        _mm512_mask_storeu_ps(task.outputs[r + row] + i, there, result);
    }
}

// Some activations and some rows of weights stay in the first cache.
template <typename Weights>
inline void multiply_by_eight(const Task & task) {
    constexpr int64_t at_once = 64;
    const int64_t bytes = task.bytes();
    for (int64_t begin = 0; begin < task.count; begin += at_once) {
        in_tiles<12>(task.many, [&](auto rows, int64_t r) {
            for (int64_t i = begin; i < std::min(task.count, begin + at_once); i += 16) {
                const char * first = task.weights + i * bytes;
                const char * second = i + 8 < task.count ? first + 8 * bytes : first;
                multiply_some<decltype(rows)::value>(task, Weights{{first, second}}, i, r);
            }
        });
    }
}

template <typename Weights>
inline void multiply_one_by_one(const Task & task) {
    thread_local std::vector<Sixteen> packed;
    const int64_t bytes = task.bytes();
    packed.resize(task.size / block);
    for (int64_t i = 0; i < task.count; i += 16) {
        pack<Weights>(task.weights + i * bytes, bytes, task.count - i, task.size, packed.data());
        in_tiles<8>(task.many, [&](auto rows, int64_t r) {
            multiply_some<decltype(rows)::value>(task, Packed<Weights::has_halves>{packed.data()}, i, r);
        });
    }
}

inline void multiply(const Task & task) {
    switch (task.format) {
        case Format::q4_0_by_eight: return multiply_by_eight<Q4_0>(task);
        case Format::q4_k_by_eight: return multiply_by_eight<Q4_K>(task);
        case Format::q6_k: return multiply_one_by_one<Q6_K>(task);
        case Format::q8_0: return multiply_one_by_one<Q8_0>(task);
        default: return;
    }
}

#else

constexpr bool exist = false;

inline void quantise(Format, const float *, int64_t, int8_t *, float *, int32_t *) {}
inline void multiply(const Task &) {}

#endif

}  // namespace products
