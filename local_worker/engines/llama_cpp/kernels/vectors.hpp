// Sixteen or eight floats at a time: AVX-512, or AVX2 with FMA and F16C.
//
// What is called `Floats` has `width` lanes. Sums over lanes are always taken in one order, so that
// a result depends on the numbers alone.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <immintrin.h>

namespace attention {

using Half = uint16_t;  // an IEEE binary16
constexpr Half MASKED = 0xFC00;  // minus infinity

#if defined(__AVX512F__) && defined(__AVX512BW__)

using Floats = __m512;
constexpr int width = 16;
constexpr int most_queries = 4;  // that a tile of 32 registers holds

inline Floats zero() { return _mm512_setzero_ps(); }
inline Floats all(float x) { return _mm512_set1_ps(x); }
inline Floats load(const float * p) { return _mm512_loadu_ps(p); }
inline Floats load(const Half * p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) p)); }
inline void store(float * p, Floats x) { _mm512_storeu_ps(p, x); }
inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline float sum(Floats x) { return _mm512_reduce_add_ps(x); }
inline float largest(Floats x) { return _mm512_reduce_max_ps(x); }

// The sums over the lanes of four.
inline __m128 sums(Floats a, Floats b, Floats c, Floats d) {
    const Floats ab = add(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const Floats cd = add(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const Floats low = _mm512_shuffle_ps(ab, cd, 0x44), high = _mm512_shuffle_ps(ab, cd, 0xEE);
    const Floats four = add(low, high);
    const __m256 two = _mm256_add_ps(
        _mm512_castps512_ps256(four),
        _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(four), 1)));
    return _mm_add_ps(_mm256_castps256_ps128(two), _mm256_extractf128_ps(two, 1));
}

inline Floats rounded(Floats x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Floats times_power(Floats x, Floats n) { return _mm512_scalef_ps(x, n); }  // x * 2^n

// A bit for each of 64 numbers: whether it is another one than `than`.
inline uint64_t differ(const Half * p, Half than) {
    const __m512i other = _mm512_set1_epi16((short) than);
    const uint64_t low = _mm512_cmpneq_epi16_mask(_mm512_loadu_si512(p), other);
    const uint64_t high = _mm512_cmpneq_epi16_mask(_mm512_loadu_si512(p + 32), other);
    return low | high << 32;
}

#else

using Floats = __m256;
constexpr int width = 8;
constexpr int most_queries = 2;  // that a tile of 16 registers holds

inline Floats zero() { return _mm256_setzero_ps(); }
inline Floats all(float x) { return _mm256_set1_ps(x); }
inline Floats load(const float * p) { return _mm256_loadu_ps(p); }
inline Floats load(const Half * p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p)); }
inline void store(float * p, Floats x) { _mm256_storeu_ps(p, x); }
inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
inline Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }

inline __m128 sums(Floats a, Floats b, Floats c, Floats d) {
    const Floats four = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(four), _mm256_extractf128_ps(four, 1));
}

inline float sum(Floats x) { return _mm_cvtss_f32(sums(x, zero(), zero(), zero())); }

inline float largest(Floats x) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

inline Floats rounded(Floats x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// x * 2^n, for n from -126 to 127; below that, nothing is left.
inline Floats times_power(Floats x, Floats n) {
    const __m256 least = all(-126.0f), kept = _mm256_cmp_ps(n, least, _CMP_NLT_UQ);
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(larger(n, least)), _mm256_set1_epi32(127));
    const __m256 power = _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
    return _mm256_and_ps(multiply(x, power), kept);
}

inline uint64_t differ(const Half * p, Half than) {
    const __m256i other = _mm256_set1_epi16((short) than);
    uint64_t same = 0;
    for (int i = 0; i < 2; ++i) {
        const __m256i * at = (const __m256i *) (p + 32 * i);
        const __m256i a = _mm256_cmpeq_epi16(_mm256_loadu_si256(at), other);
        const __m256i b = _mm256_cmpeq_epi16(_mm256_loadu_si256(at + 1), other);
        const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(a, b), 0xD8);
        same |= (uint64_t) (uint32_t) _mm256_movemask_epi8(bytes) << (32 * i);
    }
    return ~same;
}

#endif

// e^x for x up to 0, to about one unit in the last place; not a number stays that.
//
// e^x = 2^n e^r with |r| up to ln(2) / 2, and the series of e^r up to r^7.
inline Floats exponential(Floats x) {
    x = larger(all(-128.0f), x);  // of which nothing is left; the second is taken where one is no number
    const Floats n = rounded(multiply(x, all(1.44269504088896341f)));
    Floats r = fma(n, all(-0.693145751953125f), x);  // ln(2) in two parts: the first times n is exact
    r = fma(n, all(-1.42860682030941723e-6f), r);
    Floats series = all(1.0f / 5040);
    for (float factorial : {720.0f, 120.0f, 24.0f, 6.0f, 2.0f, 1.0f, 1.0f}) {
        series = fma(series, r, all(1.0f / factorial));
    }
    return times_power(series, n);
}

}  // namespace attention
