// Attention in ggml's graphs: which of it the kernel computes, and in which pieces.
#pragma once

#include "attention.hpp"
#include "ggml.hpp"

namespace attention {

using ggml::Params;
using ggml::Tensor;

constexpr int64_t most_scores = 1 << 20;  // that a thread holds at a time, where that is possible

inline float parameter(const Tensor * dst, int i) {
    float value;
    memcpy(&value, &dst->op_params[i], sizeof value);
    return value;
}

// Operations that the kernel does not compute stay ggml's: quantised keys and values, ALiBi, capped
// scores, sinks, and a mask for each head.
inline bool suits(const Tensor * dst) {
    const Tensor *q = dst->src[0], *k = dst->src[1], *v = dst->src[2], *mask = dst->src[3];
    const bool plain = parameter(dst, 1) == 0.0f && parameter(dst, 2) == 0.0f && !dst->src[4];
    if (!plain || q->type != ggml::F32 || k->type != ggml::F16 || v->type != ggml::F16) return false;
    if (q->nb[0] != 4 || k->nb[0] != 2 || v->nb[0] != 2 || dst->nb[0] != 4) return false;
    if (k->ne[0] % width || v->ne[0] % width) return false;
    if (k->ne[2] != v->ne[2] || k->ne[3] != v->ne[3] || q->ne[2] % k->ne[2]) return false;
    if (q->ne[3] != k->ne[3] || q->ne[2] / k->ne[2] > most_group) return false;
    if (mask && (mask->type != ggml::F16 || mask->nb[0] != 2 || mask->ne[2] != 1)) return false;
    return !mask || (mask->ne[0] >= k->ne[1] && q->ne[3] % mask->ne[3] == 0);
}

// Where part `i` of `parts` of so many begins.
inline int64_t begin_of(int64_t i, int64_t parts, int64_t many) { return many * i / parts; }

// Some rows, in some key-value heads and some of the query heads that share them: as much as threads
// take at a time. Pieces are of alike size, and threads take turns.
struct Pieces {
    int64_t blocks, streams, of_heads, of_group;

    Pieces(const Tensor * q, const Tensor * k, int threads) {
        blocks = (q->ne[1] + most_rows - 1) / most_rows;
        streams = q->ne[3];
        of_heads = std::clamp<int64_t>((8 * threads - 1) / (blocks * streams) + 1, 1, k->ne[2]);
        // Heads that share keys are apart only where threads would have nothing to do.
        const int64_t enough = blocks * streams * of_heads;
        of_group = std::clamp<int64_t>((threads + enough - 1) / enough, 1, q->ne[2] / k->ne[2]);
    }

    int64_t count() const { return blocks * streams * of_heads * of_group; }
};

inline void compute_piece(const Tensor * dst, const Pieces & pieces, int64_t piece, Scratch & scratch) {
    const Tensor *q = dst->src[0], *k = dst->src[1], *v = dst->src[2], *mask = dst->src[3];
    const int64_t heads = k->ne[2], group = q->ne[2] / heads;
    const int64_t of_group = piece % pieces.of_group, of_heads = piece / pieces.of_group % pieces.of_heads;
    const int64_t block = piece / pieces.of_group / pieces.of_heads, stream = block / pieces.blocks;
    const int64_t first = block % pieces.blocks * most_rows;
    const int count = (int) std::min<int64_t>(most_rows, q->ne[1] - first);
    const int64_t from = begin_of(of_group, pieces.of_group, group);
    const int64_t to = begin_of(of_group + 1, pieces.of_group, group);

    const Half * masks[most_rows] = {};
    for (int r = 0; r < count && mask; ++r) {
        masks[r] = (const Half *) (mask->data + (first + r) * mask->nb[1] + stream % mask->ne[3] * mask->nb[3]);
    }
    // With many cells, fewer queries at a time.
    const int64_t at_once = std::max<int64_t>(1, most_scores / k->ne[1]);
    const int rows = at_once >= count * (to - from) ? count : 1;
    const int64_t of_query_heads = std::min(to - from, std::max<int64_t>(1, at_once / rows));
    Heads one{nullptr, nullptr, k->nb[1], v->nb[1], (int) k->ne[0], (int) v->ne[0], 0};
    const int64_t last = begin_of(of_heads + 1, pieces.of_heads, heads);
    for (int r = 0; r < count; r += rows) {
        scratch.portions.find(masks + r, rows, k->ne[1]);
        for (int64_t head = begin_of(of_heads, pieces.of_heads, heads); head < last; ++head) {
            one.keys = k->data + head * k->nb[2] + stream * k->nb[3];
            one.values = v->data + head * v->nb[2] + stream * v->nb[3];
            for (int64_t g = from; g < to; g += one.group) {
                one.group = (int) std::min(of_query_heads, to - g);
                const float * queries[most_rows];
                float * outputs[most_rows];
                for (int i = 0; i < rows; ++i) {
                    const int64_t row = first + r + i, at = head * group + g;
                    queries[i] = (const float *) (q->data + row * q->nb[1] + at * q->nb[2] + stream * q->nb[3]);
                    outputs[i] = (float *) (dst->data + ((stream * dst->ne[2] + row) * dst->ne[1] + at) * dst->nb[1]);
                }
                attend(one, rows, queries, q->nb[2] / sizeof(float), parameter(dst, 0), masks + r, outputs,
                       dst->nb[1] / sizeof(float), scratch);
            }
        }
    }
}

inline void compute(const Params * params, const Tensor * dst) {
    thread_local Scratch scratch;
    const Pieces pieces(dst->src[0], dst->src[1], params->nth);
    for (int64_t piece = params->ith; piece < pieces.count(); piece += params->nth) {
        compute_piece(dst, pieces, piece, scratch);
    }
}

}  // namespace attention
