// Takes the place of ggml's attention and matrix products on the processor, where they are what
// `attention.hpp` and `products.hpp` compute.
//
// libggml-cpu.so calls the functions below through the dynamic linker, which finds these first when this
// library was loaded before it, for everybody (RTLD_GLOBAL). `check.py` compares results with ggml's own
// before the library is used.

#include "attention_op.hpp"
#include "products_op.hpp"

#include <atomic>

namespace {

using ggml::functions;
using ggml::Params;
using ggml::Tensor;

std::atomic<bool> is_used{false};
std::atomic<int64_t> attentions{0}, all_products{0};

bool used() { return is_used.load(std::memory_order_relaxed); }

products::Format format_of(const Tensor * op) { return used() ? products::suits(op) : products::Format::none; }

void count(const Params * params, std::atomic<int64_t> & times) {
    if (params->ith == 0) times.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

extern "C" {

// Finds ggml's own: to be called after that library was loaded, before anything is computed.
//
// The name is that of the library. Returns the file that it is in, or null where there is none.
const char * local_worker_kernels_begin(const char * name) {
    void * library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD);
    Dl_info info;
    if (!library || !functions.find(library) || !dladdr((void *) functions.attention, &info)) return nullptr;
    return info.dli_fname;
}

void local_worker_kernels_use(bool used) { is_used = used; }

// Whether there are products for this processor; not before `begin`.
bool local_worker_kernels_multiply() { return products::exist && functions.can_multiply(); }

// Operations computed here, so far.
int64_t local_worker_kernels_attentions() { return attentions; }
int64_t local_worker_kernels_products() { return all_products; }

void ggml_compute_forward_flash_attn_ext(const Params * params, Tensor * dst) {
    if (!used() || !attention::suits(dst)) return functions.attention(params, dst);
    count(params, attentions);
    attention::compute(params, dst);
}

// Which ggml asks first, for each operation.
bool ggml_cpu_extra_compute_forward(Params * params, Tensor * op) {
    const auto format = format_of(op);
    if (format == products::Format::none) return functions.extra(params, op);
    count(params, all_products);
    products::compute(params, op, format);
    return true;
}

bool ggml_cpu_extra_work_size(int threads, const Tensor * op, size_t * size) {
    if (format_of(op) == products::Format::none) return functions.extra_work(threads, op, size);
    *size = products::Work::bytes(op);
    return true;
}

}
