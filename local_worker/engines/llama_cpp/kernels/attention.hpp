// Attention of a few rows over the cells that each of them sees, in FP32 over keys and values in FP16.
//
// A row's result depends on the row and its cells, in their order, alone: neither on the rows beside it,
// nor on whose cells lie between its own. Each sum is taken in the order of the row's own cells.
//
// A thread takes up to `most_rows` rows at a time. Cells that several of them see, a shared prefix or a
// prompt's own past, are read once for all of these and for all query heads that share a key-value head.
// First come all scores, then the softmax over each row's own, then the weighted sum of values.
#pragma once

#include "vectors.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace attention {

constexpr int most_rows = 4;
constexpr int most_group = 64;  // query heads that share keys
constexpr int cells_at_once = 64;  // whose keys or values fit the first cache

// Some cells, and the rows that are to have them now.
struct Portion {
    uint32_t rows;  // a bit for each
    size_t begin, end;  // of `Portions::cells`
};

// Of one key-value head.
struct Heads {
    const char * keys;
    const char * values;
    size_t key_stride, value_stride;  // bytes from one cell to the next
    int key_size, value_size;  // numbers of a cell; multiples of `width`
    int group;  // query heads that share it
};

// Which cells a few rows see, in the order in which each of them takes them: as they lie in the buffer.
//
// Cells that several rows see, one after the other, are a portion of all of these. Others, such as those
// of answers that are written side by side, lie one here and one there: they are collected for each row.
class Portions {
  public:
    std::vector<int32_t> cells;
    std::vector<Portion> list;
    bool weighted;  // whether masks say more than who sees what

    // `masks` has a row's numbers for all cells, MASKED where it sees nothing; or null where rows see all.
    void find(const Half * const * masks, int rows, int64_t count) {
        cells.clear();
        list.clear();
        weighted = false;
        for (auto & of_row : apart_) of_row.clear();
        if (masks[0] == nullptr) {
            see(0, count, (1u << rows) - 1);
        } else {
            scan(masks, rows, count);
        }
        flush((1u << rows) - 1);
    }

    // How many cells a row sees.
    int64_t count(int row) const {
        int64_t found = 0;
        for (const auto & portion : list) found += portion.rows >> row & 1 ? portion.end - portion.begin : 0;
        return found;
    }

  private:
    static constexpr int worth_sharing = 8;  // cells in a row
    std::vector<int32_t> apart_[most_rows];  // what rows have seen alone since their last portion

    void scan(const Half * const * masks, int rows, int64_t count) {
        for (int64_t at = 0; at < count; at += 64) {
            uint64_t seen[most_rows], anybody = 0;
            for (int row = 0; row < rows; ++row) {
                uint64_t beside_zero;
                seen[row] = seen_of(masks[row] + at, count - at, beside_zero);
                weighted |= (seen[row] & beside_zero) != 0;
                anybody |= seen[row];
            }
            // From each cell that somebody sees to the next where something changes.
            while (anybody) {
                const int bit = __builtin_ctzll(anybody);
                uint32_t seeing = 0;
                uint64_t changes = 0;
                for (int row = 0; row < rows; ++row) {
                    const uint64_t ahead = seen[row] >> bit, now = ahead & 1;
                    seeing |= (uint32_t) now << row;
                    changes |= now ? ~ahead : ahead;
                }
                const int same = std::min(changes ? __builtin_ctzll(changes) : 64, 64 - bit);
                see(at + bit, at + bit + same, seeing);
                anybody = bit + same < 64 ? anybody >> (bit + same) << (bit + same) : 0;
            }
        }
    }

    static uint64_t seen_of(const Half * mask, int64_t left, uint64_t & beside_zero) {
        Half last[64];
        if (left < 64) {
            mask = (const Half *) memcpy(last, mask, left * sizeof(Half));
            std::fill(last + left, last + 64, MASKED);
        }
        beside_zero = differ(mask, 0);
        return differ(mask, MASKED);
    }

    void see(int64_t begin, int64_t end, uint32_t rows) {
        const bool shared = rows & (rows - 1);
        const bool goes_on = shared && !list.empty() && list.back().rows == rows && !has_apart(rows);
        if (goes_on) {
            append(cells, begin, end);
            list.back().end = cells.size();
        } else if (shared && end - begin >= worth_sharing) {
            flush(rows);
            list.push_back({rows, cells.size(), cells.size() + (size_t) (end - begin)});
            append(cells, begin, end);
        } else {
            for (int row = 0; row < most_rows; ++row) {
                if (rows >> row & 1) append(apart_[row], begin, end);
            }
        }
    }

    bool has_apart(uint32_t rows) const {
        for (int row = 0; row < most_rows; ++row) {
            if ((rows >> row & 1) && !apart_[row].empty()) return true;
        }
        return false;
    }

    // What rows have seen alone comes before what they are to see together.
    void flush(uint32_t rows) {
        for (int row = 0; row < most_rows; ++row) {
            auto & own = apart_[row];
            if (!(rows >> row & 1) || own.empty()) continue;
            list.push_back({1u << row, cells.size(), cells.size() + own.size()});
            cells.insert(cells.end(), own.begin(), own.end());
            own.clear();
        }
    }

    static void append(std::vector<int32_t> & to, int64_t begin, int64_t end) {
        for (; begin < end; ++begin) to.push_back((int32_t) begin);
    }
};

// What one thread works in; grows, and is kept from call to call.
struct Scratch {
    Portions portions;
    std::vector<float> queries, scores, outputs;
};

// Scores of some queries over cells: queries[q] . keys[cell], to scores[q][cell].
template <int QUERIES, int CELLS>
inline void score_tile(
    const float * const * queries, const char * keys, size_t stride, const int32_t * cells, int size,
    float * const * scores) {
    const Half * from[CELLS];
    for (int c = 0; c < CELLS; ++c) from[c] = (const Half *) (keys + cells[c] * stride);
    Floats total[QUERIES][CELLS];
    for (auto & row : total) std::fill(row, row + CELLS, zero());
    for (int i = 0; i < size; i += width) {
        Floats key[CELLS];
        for (int c = 0; c < CELLS; ++c) key[c] = load(from[c] + i);
        for (int q = 0; q < QUERIES; ++q) {
            const Floats query = load(queries[q] + i);
            for (int c = 0; c < CELLS; ++c) total[q][c] = fma(query, key[c], total[q][c]);
        }
    }
    for (int q = 0; q < QUERIES; ++q) {
        if constexpr (CELLS == 4) {
            _mm_storeu_ps(scores[q], sums(total[q][0], total[q][1], total[q][2], total[q][3]));
        } else {
            *scores[q] = _mm_cvtss_f32(sums(total[q][0], zero(), zero(), zero()));
        }
    }
}

template <int QUERIES>
inline void score(
    const float * const * queries, const char * keys, size_t stride, const int32_t * cells, int count,
    int size, float * const * scores) {
    float * at[QUERIES];
    std::copy(scores, scores + QUERIES, at);
    int i = 0;
    for (; i + 4 <= count; i += 4) {
        score_tile<QUERIES, 4>(queries, keys, stride, cells + i, size, at);
        for (auto & to : at) to += 4;
    }
    for (; i < count; ++i) {
        score_tile<QUERIES, 1>(queries, keys, stride, cells + i, size, at);
        for (auto & to : at) to += 1;
    }
}

// Adds values[cells[i]] * weights[q][i] to outputs[q], for DEPTH registers of each.
template <int QUERIES, int DEPTH>
inline void weigh_tile(
    const float * const * weights, const char * values, size_t stride, const int32_t * cells, int count,
    float * const * outputs) {
    Floats total[QUERIES][DEPTH];
    for (int q = 0; q < QUERIES; ++q) {
        for (int d = 0; d < DEPTH; ++d) total[q][d] = load(outputs[q] + d * width);
    }
    for (int i = 0; i < count; ++i) {
        const Half * value = (const Half *) (values + cells[i] * stride);
        Floats part[DEPTH];
        for (int d = 0; d < DEPTH; ++d) part[d] = load(value + d * width);
        for (int q = 0; q < QUERIES; ++q) {
            const Floats weight = all(weights[q][i]);
            for (int d = 0; d < DEPTH; ++d) total[q][d] = fma(weight, part[d], total[q][d]);
        }
    }
    for (int q = 0; q < QUERIES; ++q) {
        for (int d = 0; d < DEPTH; ++d) store(outputs[q] + d * width, total[q][d]);
    }
}

template <int QUERIES>
inline void weigh(
    const float * const * weights, const char * values, size_t stride, const int32_t * cells, int count,
    int size, float * const * outputs) {
    constexpr int DEPTH = 4 * most_queries / QUERIES;
    float * at[QUERIES];
    std::copy(outputs, outputs + QUERIES, at);
    int i = 0;
    for (; i + DEPTH * width <= size; i += DEPTH * width) {
        weigh_tile<QUERIES, DEPTH>(weights, values + i * sizeof(Half), stride, cells, count, at);
        for (auto & to : at) to += DEPTH * width;
    }
    for (; i < size; i += width) {
        weigh_tile<QUERIES, 1>(weights, values + i * sizeof(Half), stride, cells, count, at);
        for (auto & to : at) to += width;
    }
}

// Calls `part` for groups of queries, as many at a time as the registers allow.
template <typename Part>
inline void in_parts(int queries, Part part) {
    int q = 0;
    if constexpr (most_queries >= 4) {
        for (; q + 4 <= queries; q += 4) part(std::integral_constant<int, 4>{}, q);
    }
    for (; q + 2 <= queries; q += 2) part(std::integral_constant<int, 2>{}, q);
    if (q < queries) part(std::integral_constant<int, 1>{}, q);
}

// Scores become weights, and their sum is returned: 0 where there are none. Not a number stays that.
inline float softmax(float * scores, int64_t count) {
    if (count == 0) return 0.0f;
    constexpr float LEAST = -INFINITY;
    Floats most = all(LEAST);
    const int64_t padded = (count + width - 1) / width * width;
    std::fill(scores + count, scores + padded, LEAST);
    for (int64_t i = 0; i < padded; i += width) most = larger(load(scores + i), most);
    const float peak = largest(most);
    Floats total = zero();
    for (int64_t i = 0; i < padded; i += width) {
        const Floats weight = exponential(add(load(scores + i), all(-peak)));
        store(scores + i, weight);
        total = add(total, weight);
    }
    return sum(total);
}

// Attention of some rows, in one key-value head.
//
//   queries   of row r and query head g: queries[r] + g * query_stride, key_size numbers
//   masks     those that `scratch.portions` was found with; added to the scores, as ggml does
//   outputs   likewise, value_size numbers
inline void attend(
    const Heads & heads, int rows, const float * const * queries, size_t query_stride, float scale,
    const Half * const * masks, float * const * outputs, size_t output_stride, Scratch & scratch) {
    const int group = heads.group, all_queries = rows * group;
    int64_t seen[most_rows] = {}, most = 0;
    for (int r = 0; r < rows; ++r) most = std::max(most, seen[r] = scratch.portions.count(r));
    const int64_t room = most + width;
    scratch.queries.resize((size_t) all_queries * heads.key_size);
    scratch.outputs.assign((size_t) all_queries * heads.value_size, 0.0f);
    if (scratch.scores.size() < (size_t) (all_queries * room)) scratch.scores.resize(all_queries * room);
    const Floats factor = all(scale);
    for (int q = 0; q < all_queries; ++q) {
        const float * from = queries[q / group] + (q % group) * query_stride;
        float * to = &scratch.queries[(size_t) q * heads.key_size];
        for (int i = 0; i < heads.key_size; i += width) store(to + i, multiply(load(from + i), factor));
    }

    // Calls `part` for a few cells of a portion and some of the queries that have them, with where the
    // scores of these begin: behind those of the cells that each row has had before.
    const auto walk = [&](auto part) {
        int64_t before[most_rows] = {};
        for (const auto & portion : scratch.portions.list) {
            int chosen[most_rows * most_group], count = 0;
            for (int r = 0; r < rows; ++r) {
                if (!(portion.rows >> r & 1)) continue;
                for (int g = 0; g < group; ++g) chosen[count++] = r * group + g;
            }
            for (size_t at = portion.begin; at < portion.end; at += cells_at_once) {
                const int many = (int) std::min<size_t>(cells_at_once, portion.end - at);
                in_parts(count, [&](auto queries_of, int first) {
                    float * to[decltype(queries_of)::value];
                    for (int i = 0; i < queries_of; ++i) {
                        const int q = chosen[first + i];
                        to[i] = &scratch.scores[q * room + before[q / group]];
                    }
                    part(queries_of, chosen + first, &scratch.portions.cells[at], many, to);
                });
                for (int r = 0; r < rows; ++r) before[r] += portion.rows >> r & 1 ? many : 0;
            }
        }
    };

    walk([&](auto queries_of, const int * chosen, const int32_t * cells, int many, float * const * scores) {
        constexpr int QUERIES = decltype(queries_of)::value;
        const float * from[QUERIES];
        for (int i = 0; i < QUERIES; ++i) from[i] = &scratch.queries[(size_t) chosen[i] * heads.key_size];
        score<QUERIES>(from, heads.keys, heads.key_stride, cells, many, heads.key_size, scores);
        for (int i = 0; i < QUERIES && scratch.portions.weighted; ++i) {
            const Half * mask = masks[chosen[i] / group];
            for (int c = 0; c < many; ++c) scores[i][c] += _cvtsh_ss(mask[cells[c]]);
        }
    });

    float sums_of_weights[most_rows * most_group];
    for (int q = 0; q < all_queries; ++q) {
        sums_of_weights[q] = softmax(&scratch.scores[q * room], seen[q / group]);
    }

    walk([&](auto queries_of, const int * chosen, const int32_t * cells, int many, float * const * weights) {
        constexpr int QUERIES = decltype(queries_of)::value;
        float * to[QUERIES];
        for (int i = 0; i < QUERIES; ++i) to[i] = &scratch.outputs[(size_t) chosen[i] * heads.value_size];
        weigh<QUERIES>(weights, heads.values, heads.value_stride, cells, many, heads.value_size, to);
    });

    for (int q = 0; q < all_queries; ++q) {
        const float * from = &scratch.outputs[(size_t) q * heads.value_size];
        float * to = outputs[q / group] + (q % group) * output_stride;
        const Floats share = all(sums_of_weights[q] == 0.0f ? 0.0f : 1.0f / sums_of_weights[q]);
        for (int i = 0; i < heads.value_size; i += width) store(to + i, multiply(load(from + i), share));
    }
}

}  // namespace attention
