// Matrix products of ggml's graphs: which of them the kernel computes, and in which pieces.
#pragma once

#include "ggml.hpp"
#include "products.hpp"

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
    if (!exist || (op->op != ggml::MUL_MAT && op->op != ggml::MUL_MAT_ID)) return Format::none;
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

// Which expert has which rows of activations, and where their results go.
struct Chosen {
    int32_t use, token;  // indices of `op`'s second and third dimension
};

// What threads share during an operation, in ggml's own memory for that.
struct Work {
    int64_t size, rows, blocks, experts;
    int8_t * numbers;  // [rows][size]
    float * scales;  // [rows][blocks]
    int32_t * sums;  // [rows][blocks][2]
    Chosen * chosen;  // expert by expert
    int32_t * begins;  // of each expert's, and the end

    Work(const Tensor * op, char * memory) {
        const Tensor *from = op->src[1], *ids = op->op == ggml::MUL_MAT_ID ? op->src[2] : nullptr;
        size = from->ne[0];
        rows = from->ne[1] * from->ne[2] * from->ne[3];
        blocks = size / block;
        experts = ids ? op->src[0]->ne[2] : 0;
        numbers = (int8_t *) (((uintptr_t) memory + line - 1) / line * line);
        scales = (float *) (numbers + rows * size);
        sums = (int32_t *) (scales + rows * blocks);
        chosen = (Chosen *) (sums + 2 * rows * blocks);
        begins = (int32_t *) (chosen + (ids ? ids->ne[0] * ids->ne[1] : 0));
    }

    static size_t bytes(const Tensor * op) {
        const Work work(op, nullptr);
        return (uintptr_t) (work.begins + work.experts + 1) + line;
    }

    Row row(int64_t i) const { return {numbers + i * size, scales + i * blocks, sums + 2 * i * blocks}; }

  private:
    static constexpr uintptr_t line = 64;  // loads of whole registers are to be of whole lines
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
inline void choose(const Tensor * ids, const Work & work) {
    int32_t * begins = work.begins;
    std::fill(begins, begins + work.experts + 1, 0);
    const auto each = [&](auto part) {
        for (int32_t token = 0; token < ids->ne[1]; ++token) {
            for (int32_t use = 0; use < ids->ne[0]; ++use) {
                const int32_t expert = *(const int32_t *) (ids->data + token * ids->nb[1] + use * ids->nb[0]);
                if (expert < 0 || expert >= work.experts) __builtin_trap();
                part(expert, Chosen{use, token});
            }
        }
    };
    each([&](int32_t expert, Chosen) { ++begins[expert + 1]; });
    for (int64_t i = 0; i < work.experts; ++i) begins[i + 1] += begins[i];
    each([&](int32_t expert, Chosen one) { work.chosen[begins[expert]++] = one; });
    for (int64_t i = work.experts; i > 0; --i) begins[i] = begins[i - 1];
    begins[0] = 0;
}

// Some rows of weights, with `many` rows of activations: `part(i, output)` says which, and where to.
template <typename Part>
inline void multiply_piece(Task task, int64_t first, Part part) {
    thread_local std::vector<Row> rows;
    thread_local std::vector<float *> outputs;
    rows.resize(task.many);
    outputs.resize(task.many);
    for (int64_t i = 0; i < task.many; ++i) {
        rows[i] = part(i, outputs[i]);
        outputs[i] += first;
    }
    task.rows = rows.data();
    task.outputs = outputs.data();
    multiply(task);
}

inline void compute(const Params * params, const Tensor * op, Format format) {
    const Tensor * weights = op->src[0];
    const Work work(op, params->wdata);
    quantise_share(params, op->src[1], format, work);
    if (params->ith == 0) {
        if (work.experts) choose(op->src[2], work);
        ggml::functions.chunk_set(params->threadpool, params->nth);
    }
    ggml::functions.barrier(params->threadpool);

    const int64_t fair = weights->ne[1] / (8 * params->nth) / 16 * 16;
    const int64_t at_once = std::clamp<int64_t>(fair, 16, most_weights);
    const int64_t pieces = (weights->ne[1] + at_once - 1) / at_once;
    const int64_t all = pieces * std::max<int64_t>(1, work.experts);
    int64_t piece = params->ith;
    for (; piece < all; piece = ggml::functions.chunk_add(params->threadpool, 1)) {
        const int64_t expert = piece / pieces, first = piece % pieces * at_once;
        const char * data = weights->data + expert * weights->nb[2] + first * weights->nb[1];
        const int64_t count = std::min(at_once, weights->ne[1] - first);
        Task task{format, data, count, work.size, nullptr, nullptr, work.rows};
        if (!work.experts) {
            multiply_piece(task, first, [&](int64_t i, float *& to) {
                to = (float *) (op->data + i * op->nb[1]);
                return work.row(i);
            });
            continue;
        }
        const int32_t begin = work.begins[expert];
        task.many = work.begins[expert + 1] - begin;
        multiply_piece(task, first, [&](int64_t i, float *& to) {
            const Chosen one = work.chosen[begin + i];
            to = (float *) (op->data + one.use * op->nb[1] + one.token * op->nb[2]);
            return work.row(one.token * op->src[1]->ne[1] + one.use % op->src[1]->ne[1]);
        });
    }
}

}  // namespace products
