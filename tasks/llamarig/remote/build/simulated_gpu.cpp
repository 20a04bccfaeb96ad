// A ggml backend that shows llama.cpp CUDA devices a machine does not have, and holds no memory: for dry runs only.
//
//   GGML_BACKEND_PATH=.../libggml-simulated.so
//   LLAMARIG_SIMULATED_GPUS="RTX 4090:24564:23671,RTX 5070 Ti:16303:12761"    (NAME:TOTAL MiB:FREE MiB, by commas)
//   llama-fit-params -dev CUDA0,CUDA1 --fit-print on ...
//
// Where a tensor may lie, how long it lives and how large it is there decide a graph's buffer sizes. All of that is the
// CUDA backend's own code, taken at build time from the source tree the release was built from (cuda_backend_parts.inc,
// see cuda_backend_parts.py): which operations it supports, alignment and padding, flash attention's f16 scratch, which
// operations of weights in RAM it takes over, and the lifetimes its graph optimiser extends. Only what would touch a
// GPU stands here, doing nothing. Not simulated: the CUDA context, memory pools and graphs, which no dry run sees.

#define GGML_COMMON_DECL_CPP
#include "ggml-common.h"

#include "ggml-backend-impl.h"
#include "ggml-backend.h"
#include "ggml-cuda.h"
#include "ggml-impl.h"
#include "ggml.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cassert>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

// --- what the CUDA backend's parts expect of CUDA; whatever is declared here is not taken from the tree ---

// As nvcc 11.8 or newer compiles the tree for the cards at hand; a release is built for no others.
#define __host__
#define __device__
#define __forceinline__ inline
#define CUDART_VERSION 13000
#define GGML_CUDA_USE_CUB
#define USE_CUDA_GRAPH
#define FLASH_ATTN_AVAILABLE
#define CUDA_CHECK(call)

using cudaEvent_t  = void *;
using cudaStream_t = void *;

struct ggml_cuda_device_info;
struct ggml_cuda_stream_context;

const ggml_cuda_device_info & ggml_cuda_info();

// The real one owns streams, pools and cuBLAS handles. The parts ask it for no more than this.
struct ggml_backend_cuda_context {
    int device;

    ggml_cuda_stream_context & stream_context();
};

static void ggml_cuda_set_device(int) {}

static int ggml_cuda_highest_compiled_arch(const int arch) { return arch; }

// CUDA graphs are on in every build and on every card this project builds for (Volta and newer).
static const void * ggml_cuda_graph_get_key(ggml_cgraph * cgraph) {
    return cgraph->n_nodes > 0 ? cgraph->nodes[0] : nullptr;
}

static bool ggml_cuda_graph_set_enabled(ggml_backend_cuda_context *, const void *) { return true; }

// Which vector kernels are compiled in matters for one or two tokens at a time. A prompt's batch needs the f16 scratch
// whatever the kernels, and is what the buffer is reserved for.
static const void * ggml_cuda_get_fattn_vec_case(int64_t, ggml_type, ggml_type) {
    static const char compiled = 1;
    return &compiled;
}

static const char *              ggml_backend_cuda_device_get_name(ggml_backend_dev_t dev);
static const char *              ggml_backend_cuda_device_get_description(ggml_backend_dev_t dev);
static enum ggml_backend_dev_type ggml_backend_cuda_device_get_type(ggml_backend_dev_t dev);
static void                      ggml_backend_cuda_device_get_memory(ggml_backend_dev_t dev, size_t * free, size_t * total);

#include "cuda_backend_parts.inc"

// --- the declared cards ---

struct simulated_gpu {
    std::string name;
    size_t      total_mib = 0;
    size_t      free_mib  = 0;
};

[[noreturn]] static void refuse(const std::string & card) {
    fprintf(stderr,
            "LLAMARIG_SIMULATED_GPUS: \"%s\" is no card: write NAME:TOTAL_MIB:FREE_MIB, for example "
            "\"RTX 4090:24564:23671\", and a comma between cards\n",
            card.c_str());
    // A dry run that went on without the card would answer for another box.
    exit(1);
}

static simulated_gpu parse_gpu(const std::string & text) {
    simulated_gpu gpu;
    char          name[128] = "";
    int           end       = 0;

    const int read = sscanf(text.c_str(), "%127[^:,]:%zu:%zu%n", name, &gpu.total_mib, &gpu.free_mib, &end);
    if (read != 3 || size_t(end) != text.size() || gpu.free_mib > gpu.total_mib || gpu.total_mib > (1 << 24)) {
        refuse(text);
    }
    gpu.name = name;
    return gpu;
}

static const std::vector<simulated_gpu> & simulated_gpus() {
    static const std::vector<simulated_gpu> gpus = [] {
        std::vector<simulated_gpu> found;
        const char *               variable = getenv("LLAMARIG_SIMULATED_GPUS");
        std::string                left     = variable != nullptr ? variable : "";
        for (bool more = true; more;) {
            const size_t comma = left.find(',');
            found.push_back(parse_gpu(left.substr(0, comma)));
            more = comma != std::string::npos;
            left = more ? left.substr(comma + 1) : "";
        }
        if (found.size() > GGML_CUDA_MAX_DEVICES) {
            refuse(variable);
        }
        return found;
    }();
    return gpus;
}

const ggml_cuda_device_info & ggml_cuda_info() {
    static const ggml_cuda_device_info info = [] {
        ggml_cuda_device_info cards = {};
        cards.device_count          = int(simulated_gpus().size());
        for (int id = 0; id < cards.device_count; ++id) {
            // Every card from Turing on is given the same memory: kernels differ for one or two tokens at a time only.
            cards.devices[id].cc        = GGML_CUDA_CC_ADA_LOVELACE;
            cards.devices[id].warp_size = 32;
            // What every card since Volta gives a block without asking: CUDA C Programming Guide, technical
            // specifications per compute capability.
            cards.devices[id].smpb = 48 * 1024;
        }
        return cards;
    }();
    return info;
}

ggml_cuda_stream_context & ggml_backend_cuda_context::stream_context() {
    static ggml_cuda_stream_context context;
    return context;
}

// --- buffers: address space that nobody may touch, so that a tensor has an address and costs nothing ---

// A card has no more than it has free: a server started on simulated cards runs out of memory as on real ones.
static std::array<std::atomic<size_t>, GGML_CUDA_MAX_DEVICES> taken;

static int device_of(ggml_backend_buffer_type_t type) {
    return static_cast<ggml_backend_cuda_buffer_type_context *>(type->context)->device;
}

static void buffer_free(ggml_backend_buffer_t buffer) {
    if (buffer->context != nullptr) {
        munmap(buffer->context, buffer->size);
        taken[device_of(buffer->buft)] -= buffer->size;
    }
}

static void * buffer_base(ggml_backend_buffer_t buffer) {
    // ggml takes an empty buffer's base for an error where it is null.
    return buffer->context != nullptr ? buffer->context : reinterpret_cast<void *>(128);
}

static void buffer_memset(ggml_backend_buffer_t, ggml_tensor *, uint8_t, size_t, size_t) {}
static void buffer_clear(ggml_backend_buffer_t, uint8_t) {}
static void buffer_set(ggml_backend_buffer_t, ggml_tensor *, const void *, size_t, size_t) {}

static void buffer_get(ggml_backend_buffer_t, const ggml_tensor *, void * data, size_t, size_t size) {
    memset(data, 0, size);
}

static bool buffer_copy(ggml_backend_buffer_t, const ggml_tensor *, ggml_tensor *) { return true; }

static ggml_backend_buffer_t buffer_allocate(ggml_backend_buffer_type_t type, size_t size) {
    void *    address = nullptr;
    const int device  = device_of(type);
    if (size > (simulated_gpus()[device].free_mib << 20) - taken[device]) {
        // In the words of the CUDA backend, so that who reads a server's log meets them.
        GGML_LOG_ERROR("%s: allocating %.2f MiB on device %d: cudaMalloc failed: out of memory (simulated)\n", __func__,
                       size / 1024.0 / 1024.0, device);
        return nullptr;
    }
    if (size > 0) {
        address = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (address == MAP_FAILED) {
            return nullptr;
        }
        taken[device] += size;
    }
    ggml_backend_buffer_i calls = {};
    calls.free_buffer           = buffer_free;
    calls.get_base              = buffer_base;
    calls.memset_tensor         = buffer_memset;
    calls.set_tensor            = buffer_set;
    calls.get_tensor            = buffer_get;
    calls.cpy_tensor            = buffer_copy;
    calls.clear                 = buffer_clear;
    return ggml_backend_buffer_init(type, calls, address, size);
}

// Its name tells llama.cpp that the GPU reaches it. The kernel counts CUDA's as shared memory (RssShmem), and so this.
static const char * host_buffer_name(ggml_backend_buffer_type_t) {
    return GGML_CUDA_NAME "_Host";
}

static void host_buffer_free(ggml_backend_buffer_t buffer) { munmap(buffer->context, buffer->size); }

static ggml_backend_buffer_t host_buffer_allocate(ggml_backend_buffer_type_t type, size_t size) {
    const bool refused = size == 0 || getenv("GGML_CUDA_NO_PINNED") != nullptr;
    const int  flags   = MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE;
    void *     address = refused ? MAP_FAILED : mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, -1, 0);
    // As in the CUDA backend: ordinary memory instead.
    if (address == MAP_FAILED) return ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
    ggml_backend_buffer_t buffer = ggml_backend_cpu_buffer_from_ptr(address, size);
    buffer->buft                 = type;
    buffer->iface.free_buffer    = host_buffer_free;
    return buffer;
}

static ggml_backend_buffer_type_t host_buffer_type(ggml_backend_dev_t dev) {
    static ggml_backend_buffer_type type = [dev] {
        ggml_backend_buffer_type pinned = *ggml_backend_cpu_buffer_type();
        pinned.iface.get_name           = host_buffer_name;
        pinned.iface.alloc_buffer       = host_buffer_allocate;
        // CUDA's belongs to the first device, whichever asks.
        pinned.device  = ggml_backend_reg_dev_get(dev->reg, 0);
        pinned.context = nullptr;
        return pinned;
    }();
    return &type;
}

// --- a backend that computes nothing ---

static const char * backend_name(ggml_backend_t backend) {
    return ggml_backend_cuda_device_get_name(backend->device);
}

static void backend_free(ggml_backend_t backend) {
    delete static_cast<ggml_backend_cuda_context *>(backend->context);
    delete backend;
}

static void backend_set(ggml_backend_t, ggml_tensor *, const void *, size_t, size_t) {}
static void backend_synchronize(ggml_backend_t) {}
static void backend_event(ggml_backend_t, ggml_backend_event_t) {}

static void backend_get(ggml_backend_t, const ggml_tensor *, void * data, size_t, size_t size) {
    memset(data, 0, size);
}

static bool backend_copy(ggml_backend_t, ggml_backend_t, const ggml_tensor *, ggml_tensor *) { return true; }

static ggml_status backend_compute(ggml_backend_t, ggml_cgraph *) { return GGML_STATUS_SUCCESS; }

static ggml_backend_t device_backend(ggml_backend_dev_t dev, const char *) {
    static ggml_guid guid     = { 'l', 'l', 'a', 'm', 'a', 'r', 'i', 'g', ' ', 'n', 'o', ' ', 'G', 'P', 'U', 0 };
    const auto *     device   = static_cast<ggml_backend_cuda_device_context *>(dev->context);
    ggml_backend_i   calls    = {};
    calls.get_name            = backend_name;
    calls.free                = backend_free;
    calls.set_tensor_async    = backend_set;
    calls.get_tensor_async    = backend_get;
    calls.cpy_tensor_async    = backend_copy;
    calls.synchronize         = backend_synchronize;
    calls.graph_compute       = backend_compute;
    calls.event_record        = backend_event;
    calls.event_wait          = backend_event;
    calls.graph_optimize      = ggml_backend_cuda_graph_optimize;
    return new ggml_backend{ &guid, calls, dev, new ggml_backend_cuda_context{ device->device } };
}

// --- the devices ---

static ggml_backend_cuda_device_context & context_of(ggml_backend_dev_t dev) {
    return *static_cast<ggml_backend_cuda_device_context *>(dev->context);
}

static const char * ggml_backend_cuda_device_get_name(ggml_backend_dev_t dev) {
    return context_of(dev).name.c_str();
}

static const char * ggml_backend_cuda_device_get_description(ggml_backend_dev_t dev) {
    return context_of(dev).description.c_str();
}

static enum ggml_backend_dev_type ggml_backend_cuda_device_get_type(ggml_backend_dev_t) {
    return GGML_BACKEND_DEVICE_TYPE_GPU;
}

static void ggml_backend_cuda_device_get_memory(ggml_backend_dev_t dev, size_t * free, size_t * total) {
    const simulated_gpu & gpu = simulated_gpus()[context_of(dev).device];
    *free                     = gpu.free_mib << 20;
    *total                    = gpu.total_mib << 20;
}

static ggml_backend_buffer_type_t device_buffer_type(ggml_backend_dev_t dev) {
    static std::unordered_map<ggml_backend_dev_t, ggml_backend_buffer_type> types;
    if (types.count(dev) == 0) {
        ggml_backend_buffer_type type = {};
        type.iface.get_name           = ggml_backend_cuda_buffer_type_get_name;
        type.iface.alloc_buffer       = buffer_allocate;
        type.iface.get_alignment      = ggml_backend_cuda_buffer_type_get_alignment;
        type.iface.get_alloc_size     = ggml_backend_cuda_buffer_type_get_alloc_size;
        type.device                   = dev;
        type.context                  = new ggml_backend_cuda_buffer_type_context{ context_of(dev).device, context_of(dev).name };
        types[dev]                    = type;
    }
    return &types[dev];
}

static ggml_backend_event_t device_event(ggml_backend_dev_t dev) {
    return new ggml_backend_event{ dev, nullptr };
}

static void device_event_free(ggml_backend_dev_t, ggml_backend_event_t event) { delete event; }

static void device_event_synchronize(ggml_backend_dev_t, ggml_backend_event_t) {}

static const char * registry_name(ggml_backend_reg_t) { return GGML_CUDA_NAME; }

static size_t registry_count(ggml_backend_reg_t reg) {
    return static_cast<std::vector<ggml_backend_device> *>(reg->context)->size();
}

static ggml_backend_dev_t registry_device(ggml_backend_reg_t reg, size_t index) {
    return &static_cast<std::vector<ggml_backend_device> *>(reg->context)->at(index);
}

static void * registry_function(ggml_backend_reg_t, const char *) { return nullptr; }

static ggml_backend_device device_of(ggml_backend_reg_t reg, int id) {
    const char * min_batch = getenv("GGML_OP_OFFLOAD_MIN_BATCH");
    auto *       context   = new ggml_backend_cuda_device_context();
    context->device        = id;
    context->name          = GGML_CUDA_NAME + std::to_string(id);
    context->description   = simulated_gpus()[id].name;
    // llama.cpp takes two devices of one PCI address for the same card.
    context->pci_bus_id                = "0000:" + std::to_string(10 + id) + ":00.0";
    context->op_offload_min_batch_size = min_batch != nullptr ? atoi(min_batch) : 32;

    ggml_backend_device device        = {};
    device.iface.get_name             = ggml_backend_cuda_device_get_name;
    device.iface.get_description      = ggml_backend_cuda_device_get_description;
    device.iface.get_memory           = ggml_backend_cuda_device_get_memory;
    device.iface.get_type             = ggml_backend_cuda_device_get_type;
    device.iface.get_props            = ggml_backend_cuda_device_get_props;
    device.iface.init_backend         = device_backend;
    device.iface.get_buffer_type      = device_buffer_type;
    device.iface.get_host_buffer_type = host_buffer_type;
    device.iface.supports_op          = ggml_backend_cuda_device_supports_op;
    device.iface.supports_buft        = ggml_backend_cuda_device_supports_buft;
    device.iface.offload_op           = ggml_backend_cuda_device_offload_op;
    device.iface.event_new            = device_event;
    device.iface.event_free           = device_event_free;
    device.iface.event_synchronize    = device_event_synchronize;
    device.reg                        = reg;
    device.context                    = context;
    return device;
}

extern "C" __attribute__((visibility("default"))) ggml_backend_reg_t ggml_backend_init(void) {
    static std::vector<ggml_backend_device> devices;
    static ggml_backend_reg                 registry = {
        GGML_BACKEND_API_VERSION, { registry_name, registry_count, registry_device, registry_function }, &devices
    };
    for (int id = int(devices.size()); id < ggml_cuda_info().device_count; ++id) {
        devices.push_back(device_of(&registry, id));
    }
    return &registry;
}

extern "C" __attribute__((visibility("default"))) int ggml_backend_score(void) {
    return 1;
}
