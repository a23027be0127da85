// Devices of other machines: see shim.h for the contract of each function.

#include "guard.h"
#include "remote.h"

#include "ggml-rpc.h"

#include <memory>
#include <mutex>
#include <unordered_map>

using namespace llamacffi;

struct llamacffi_remote {
    llamacffi_rpc_connection * connection;
};

namespace {

// Which flag stops the work of a context: a wait for a server has to look at it.
std::mutex flags_mutex;
std::unordered_map<const llama_context *, llamacffi_progress *> flags;

bool is_cancelled(void * progress) {
    return static_cast<llamacffi_progress *>(progress)->cancel != 0;
}

struct backend_deleter {
    void operator()(ggml_backend_t backend) const { ggml_backend_free(backend); }
};
struct pool_deleter {
    void operator()(ggml_threadpool_t pool) const { ggml_threadpool_free(pool); }
};
using set_threadpool_t = void (*)(ggml_backend_t, ggml_threadpool_t);

}  // namespace

namespace llamacffi {

void note_flag(const llama_context * ctx, llamacffi_progress * progress) {
    const std::lock_guard<std::mutex> lock(flags_mutex);
    flags[ctx] = progress;
}

void forget_flag(const llama_context * ctx) {
    const std::lock_guard<std::mutex> lock(flags_mutex);
    flags.erase(ctx);
}

interruptible_waits::interruptible_waits(llamacffi_progress * progress) {
    llamacffi_rpc_set_abort(is_cancelled, progress);
}

interruptible_waits::interruptible_waits(const llama_context * ctx) {
    if (llamacffi_rpc_connections() == 0) {
        return;
    }
    const std::lock_guard<std::mutex> lock(flags_mutex);
    const auto found = flags.find(ctx);
    if (found != flags.end()) {
        llamacffi_rpc_set_abort(is_cancelled, found->second);
    }
}

interruptible_waits::~interruptible_waits() {
    llamacffi_rpc_set_abort(nullptr, nullptr);
}

}  // namespace llamacffi

int32_t llamacffi_remote_protocol(void) {
    return RPC_PROTO_MAJOR_VERSION << 16 | RPC_PROTO_MINOR_VERSION << 8 | RPC_PROTO_PATCH_VERSION;
}

llamacffi_remote * llamacffi_remote_open(
        intptr_t socket, const char * endpoint, int32_t n_devices, int32_t first,
        int64_t timeout_ms, llamacffi_error * error) {
    return guarded<llamacffi_remote *>(error, nullptr, [&] {
        auto remote = std::make_unique<llamacffi_remote>();
        remote->connection = llamacffi_rpc_connect(
            socket, endpoint, static_cast<uint32_t>(n_devices), static_cast<uint32_t>(first),
            timeout_ms);
        return remote.release();
    });
}

ggml_backend_dev_t llamacffi_remote_device(llamacffi_remote * remote, int32_t index) {
    return llamacffi_rpc_device(remote->connection, static_cast<size_t>(index));
}

bool llamacffi_remote_memory(
        ggml_backend_dev_t device, size_t * free, size_t * total, llamacffi_error * error) {
    return guarded(error, false, [&] {
        ggml_backend_dev_memory(device, free, total);
        return true;
    });
}

void llamacffi_remote_close(llamacffi_remote * remote) {
    llamacffi_rpc_disconnect(remote->connection);
    delete remote;
}

void llamacffi_remote_serve(
        intptr_t socket, const char * cache_dir, const ggml_backend_dev_t * devices,
        int32_t n_devices, int32_t n_threads, llamacffi_error * error) {
    guarded(error, 0, [&] {
        // One pool for all devices: otherwise each graph starts threads of its own.
        ggml_threadpool_params settings;
        ggml_threadpool_params_init(&settings, n_threads);
        const std::unique_ptr<ggml_threadpool, pool_deleter> pool(ggml_threadpool_new(&settings));
        std::vector<std::unique_ptr<ggml_backend, backend_deleter>> owned;
        std::vector<ggml_backend_t> backends;
        for (int32_t i = 0; i < n_devices; i++) {
            owned.emplace_back(ggml_backend_dev_init(devices[i], nullptr));
            if (!owned.back()) {
                throw std::runtime_error(
                    std::string("no backend for device ") + ggml_backend_dev_name(devices[i]));
            }
            backends.push_back(owned.back().get());
            ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(devices[i]);
            const auto set_threads = reinterpret_cast<ggml_backend_set_n_threads_t>(
                ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads"));
            if (set_threads != nullptr) {
                set_threads(backends.back(), n_threads);
            }
            const auto set_pool = reinterpret_cast<set_threadpool_t>(
                ggml_backend_reg_get_proc_address(reg, "ggml_backend_cpu_set_threadpool"));
            if (set_pool != nullptr && pool) {
                set_pool(backends.back(), pool.get());
            }
        }
        llamacffi_rpc_serve(socket, cache_dir, backends);
        return 0;
    });
}
