// What is known here of ggml: how a tensor and an operation's parameters lie in memory, and what its
// library has to offer, in the version that `build.py` names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <dlfcn.h>

namespace ggml {

struct Buffer;

struct Tensor {  // ggml_tensor
    int type;
    Buffer * buffer;
    int64_t ne[4];  // numbers in each dimension
    size_t nb[4];  // bytes from one to the next
    int op;
    int32_t op_params[16];
    int32_t flags;
    Tensor * src[10];
    Tensor * view_src;
    size_t view_offs;
    char * data;
    char name[64];
    void * extra;  // of a buffer that has weights in another order
};

struct Params {  // ggml_compute_params
    int ith, nth;  // of the threads that compute the operation, all at once
    size_t wsize;
    char * wdata;  // shared by these
    void * threadpool;
};

constexpr int F32 = 0, F16 = 1, Q4_0 = 2, Q8_0 = 8, Q4_K = 12, Q6_K = 14, I32 = 26;
constexpr int MUL_MAT = 29, MUL_MAT_ID = 30;

// Functions of libggml-cpu.so and of what it is linked with; not before `find`.
struct Functions {
    void (*attention)(const Params *, Tensor *);
    bool (*extra)(Params *, Tensor *);
    bool (*extra_work)(int threads, const Tensor *, size_t * size);
    void (*barrier)(void * threadpool);
    void (*chunk_set)(void * threadpool, int value);
    int (*chunk_add)(void * threadpool, int value);
    void * (*type_of)(const Buffer *);
    void * (*repacked_type)();

    // Whether those are there that the hooks themselves need.
    bool find(void * library) {
        find(library, "ggml_barrier", barrier);
        find(library, "ggml_threadpool_chunk_set", chunk_set);
        find(library, "ggml_threadpool_chunk_add", chunk_add);
        find(library, "ggml_backend_buffer_get_type", type_of);
        find(library, "_Z35ggml_backend_cpu_repack_buffer_typev", repacked_type);
        return find(library, "ggml_compute_forward_flash_attn_ext", attention)
            && find(library, "ggml_cpu_extra_compute_forward", extra)
            && find(library, "ggml_cpu_extra_work_size", extra_work);
    }

    bool can_multiply() const { return barrier && chunk_set && chunk_add && type_of && repacked_type; }

  private:
    template <typename Function>
    static bool find(void * library, const char * name, Function & found) {
        found = (Function) dlsym(library, name);
        return found != nullptr;
    }
};

inline Functions functions{};

}  // namespace ggml
