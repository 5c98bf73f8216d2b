// Matrix products of ggml's graphs: which of them the kernel computes, and in which pieces.
#pragma once

#include "ggml.hpp"
#include "products.hpp"

#include <cstdio>
#include <cstdlib>

namespace products {

using ggml::Params;
using ggml::Tensor;

constexpr int64_t most_weights = 512;  // rows of weights that a thread takes at a time

inline Format format_of(const Tensor * weights) {
    const bool repacked = weights->extra != nullptr;
    const auto & known = ggml::functions;
    if (repacked && known.type_of(weights->buffer) != known.repacked_type()) return Format::none;
    switch (weights->type) {
        case ggml::Q4_0: return repacked ? Format::q4_0_by_eight : Format::none;
        case ggml::Q4_K: return repacked ? Format::q4_k_by_eight : Format::none;
        case ggml::Q6_K: return repacked ? Format::none : Format::q6_k;
        case ggml::Q8_0: return repacked ? Format::none : Format::q8_0;
        default: return Format::none;
    }
}

// Rows follow each other in memory, whatever dimension they are in.
inline bool is_flat(const Tensor * t) {
    return t->nb[0] == 4 && t->nb[2] == t->ne[1] * t->nb[1] && t->nb[3] == t->ne[2] * t->nb[2];
}

// What `op` multiplies with, where the kernel computes it.
inline Format suits(const Tensor * op) {
    if (!exist || !ggml::functions.can_multiply() || (op->op != ggml::MUL_MAT && op->op != ggml::MUL_MAT_ID)) return Format::none;
    const Tensor *weights = op->src[0], *rows = op->src[1];
    const Format format = format_of(weights);
    const Layout layout = layout_of(format);
    const int64_t size = weights->ne[0];
    if (format == Format::none || rows->type != ggml::F32 || op->type != ggml::F32) return Format::none;
    if (size % layout.numbers || weights->ne[1] % layout.together) return Format::none;
    if (weights->nb[1] != (size_t) (size / layout.numbers * layout.bytes)) return Format::none;
    if (weights->ne[3] != 1 || !is_flat(rows) || !is_flat(op)) return Format::none;
    if (op->op == ggml::MUL_MAT) {  // its second parameter says that the weights have another meaning
        return weights->ne[2] == 1 && op->op_params[1] == 0 ? format : Format::none;
    }
    const Tensor * ids = op->src[2];
    const bool is_plain = ids->ne[2] == 1 && ids->ne[3] == 1 && rows->ne[3] == 1;
    return ids->type == ggml::I32 && is_plain ? format : Format::none;
}

// A row of activations, and the row of results that it is for.
struct Pair {
    int32_t from, to;
};

// Some of these, that meet the same weights: an expert's.
struct Share {
    int32_t expert, begin, end;
};

// What threads share during an operation, in ggml's own memory for that.
struct Work {
    int64_t size, rows, blocks, experts;
    int8_t * numbers;  // [rows][size]
    float * scales;  // [rows][blocks]
    int32_t * sums;  // [rows][blocks][2]
    Pair * pairs;  // of each row of results, expert by expert
    Share * shares;  // of experts that somebody has chosen
    int32_t * many_shares;
    int32_t * begins;  // [experts + 1], to sort with
    uintptr_t end;

    Work(const Tensor * op, uintptr_t memory) {
        const Tensor *from = op->src[1], *ids = op->op == ggml::MUL_MAT_ID ? op->src[2] : nullptr;
        size = from->ne[0];
        rows = from->ne[1] * from->ne[2] * from->ne[3];
        blocks = size / block;
        experts = ids ? op->src[0]->ne[2] : 1;
        end = (memory + line - 1) / line * line;
        place(numbers, rows * size);
        place(scales, rows * blocks);
        place(sums, 2 * rows * blocks);
        place(pairs, ids ? ids->ne[0] * ids->ne[1] : rows);
        place(shares, experts);
        place(many_shares, 1);
        place(begins, experts + 1);
    }

    static size_t bytes(const Tensor * op) { return Work(op, 0).end + line; }

    Row row(int64_t i) const { return {numbers + i * size, scales + i * blocks, sums + 2 * i * blocks}; }

  private:
    static constexpr uintptr_t line = 64;  // of the cache

    template <typename T>
    void place(T *& array, int64_t count) {
        array = (T *) end;
        end += count * sizeof(T);
    }
};

// The thread's share of all activations.
inline void quantise_share(const Params * params, const Tensor * from, Format format, const Work & work) {
    const int64_t all = work.rows * work.blocks, end = all * (params->ith + 1) / params->nth;
    for (int64_t at = all * params->ith / params->nth; at < end;) {
        const int64_t row = at / work.blocks, first = at % work.blocks;
        const int64_t many = std::min(work.blocks - first, end - at);
        const float * numbers = (const float *) (from->data + row * from->nb[1]) + first * block;
        quantise(format, numbers, many, work.numbers + at * block, work.scales + at, work.sums + 2 * at);
        at += many;
    }
}

// Sorts rows by the expert that they go to.
inline void choose(const Tensor * op, const Work & work) {
    const Tensor *ids = op->src[2], *from = op->src[1];
    int32_t * begins = work.begins;
    std::fill(begins, begins + work.experts + 1, 0);
    const auto each = [&](auto part) {
        for (int64_t token = 0; token < ids->ne[1]; ++token) {
            for (int64_t use = 0; use < ids->ne[0]; ++use) {
                const int32_t expert = *(const int32_t *) (ids->data + token * ids->nb[1] + use * ids->nb[0]);
                if (expert < 0 || expert >= work.experts) {
                    fprintf(stderr, "there is no expert %d of %d\n", (int) expert, (int) work.experts);
                    abort();
                }
                const int64_t row = token * from->ne[1] + use % from->ne[1];
                part(expert, Pair{(int32_t) row, (int32_t) (token * ids->ne[0] + use)});
            }
        }
    };
    each([&](int32_t expert, Pair) { ++begins[expert + 1]; });
    for (int64_t i = 0; i < work.experts; ++i) begins[i + 1] += begins[i];
    each([&](int32_t expert, Pair pair) { work.pairs[begins[expert]++] = pair; });  // now the ends
    int32_t many = 0;
    for (int32_t i = 0; i < work.experts; ++i) {
        const int32_t begin = i ? begins[i - 1] : 0;
        if (begin < begins[i]) work.shares[many++] = {i, begin, begins[i]};
    }
    *work.many_shares = many;
}

// All rows, in their order, with the only weights.
inline void take_all(const Work & work) {
    for (int32_t i = 0; i < work.rows; ++i) work.pairs[i] = {i, i};
    work.shares[0] = {0, 0, (int32_t) work.rows};
    *work.many_shares = 1;
}

inline void compute(const Params * params, const Tensor * op, Format format) {
    const Tensor * weights = op->src[0];
    const Work work(op, (uintptr_t) params->wdata);
    quantise_share(params, op->src[1], format, work);
    if (params->ith == 0) {
        op->op == ggml::MUL_MAT_ID ? choose(op, work) : take_all(work);
        ggml::functions.chunk_set(params->threadpool, params->nth);
    }
    ggml::functions.barrier(params->threadpool);

    thread_local std::vector<Row> rows;
    thread_local std::vector<float *> outputs;
    const int64_t fair = weights->ne[1] / (8 * params->nth) / 16 * 16;
    const int64_t at_once = std::clamp<int64_t>(fair, 16, most_weights);
    const int64_t pieces = (weights->ne[1] + at_once - 1) / at_once, all = pieces * *work.many_shares;
    int64_t piece = params->ith;
    for (; piece < all; piece = ggml::functions.chunk_add(params->threadpool, 1)) {
        const Share share = work.shares[piece / pieces];
        const int64_t first = piece % pieces * at_once, many = share.end - share.begin;
        rows.resize(many);
        outputs.resize(many);
        for (int64_t i = 0; i < many; ++i) {
            const Pair pair = work.pairs[share.begin + i];
            rows[i] = work.row(pair.from);
            outputs[i] = (float *) (op->data + pair.to * op->nb[1]) + first;
        }
        const char * data = weights->data + share.expert * weights->nb[2] + first * weights->nb[1];
        const int64_t count = std::min(at_once, weights->ne[1] - first);
        multiply({format, data, count, work.size, rows.data(), outputs.data(), many});
    }
}

}  // namespace products
