// Fitting a model to the memory of its devices: upstream's common/fit.cpp, compiled here with its
// ways to the outside replaced, so that it can run beside other threads.

#include "guard.h"
#include "remote.h"

#include "llama.h"
#include "log.h"

#include <cstdarg>
#include <cstdio>
#include <mutex>

namespace {

// What is to be loaded, and who may stop it: upstream's functions pass a single path along.
struct fit_source {
    const char ** paths;
    size_t n_paths;
    llamacffi_progress * progress;
};

thread_local const fit_source * source = nullptr;

struct source_scope {
    explicit source_scope(const fit_source & own) { source = &own; }
    ~source_scope() { source = nullptr; }
};

llama_model * load_source(llama_model_params params) {
    if (source->progress->cancel != 0) {
        throw std::runtime_error("cancelled");
    }
    return source->n_paths == 1
        ? llama_model_load_from_file(source->paths[0], params)
        : llama_model_load_from_splits(source->paths, source->n_paths, params);
}

// A fit loads the same file up to some dozen times: what it warns of is heard when it is loaded in
// earnest. Errors stay.
struct log_demoted {
    const bool before = std::exchange(llamacffi::demote_log, true);
    ~log_demoted() { llamacffi::demote_log = before; }
};

// Why nothing was found that fits is for the caller, who may know a way; it is no warning.
void tell_caller(const char * format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    llamacffi::capture->append(text);
}

std::mutex fit_mutex;  // upstream fills static tables of patterns

}  // namespace

// Upstream replaces the logger of the whole library for each load, to turn lines down: other threads
// would log through it, and after an exception nobody would put the old one back.
#define llama_log_get(...) ((void) 0)
#define llama_log_set(...) ((void) 0)
#define llama_model_load_from_file(path, params) load_source(params)
#undef LOG_TRC
#undef LOG_WRN
#undef LOG_JSON
#define LOG_TRC(...) common_log_add(nullptr, GGML_LOG_LEVEL_DEBUG, __VA_ARGS__)
#define LOG_WRN(...) tell_caller(__VA_ARGS__)
#define LOG_JSON(...) ((void) 0)

#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"
#endif
#include "fit.cpp"
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

#undef llama_log_get
#undef llama_log_set
#undef llama_model_load_from_file

using namespace llamacffi;

namespace {

void add(llamacffi_device_memory & row, const llama_memory_breakdown_data & data) {
    row.weights += static_cast<int64_t>(data.model);
    row.cache += static_cast<int64_t>(data.context);
    row.compute += static_cast<int64_t>(data.compute);
}

void describe(llamacffi_device_memory & row, ggml_backend_dev_t device) {
    size_t free = 0;
    size_t total = 0;
    ggml_backend_dev_memory(device, &free, &total);
    row = {ggml_backend_dev_name(device), ggml_backend_dev_description(device),
           static_cast<int64_t>(total), static_cast<int64_t>(free), 0, 0, 0};
}

struct opened_model {
    llama_model * model;
    llama_context * context = nullptr;

    explicit opened_model(llama_model_params params) : model(load_source(params)) {
        if (model == nullptr) {
            throw std::runtime_error("the model could not be loaded");
        }
    }
    opened_model(const opened_model &) = delete;
    opened_model & operator=(const opened_model &) = delete;
    ~opened_model() {
        llama_free(context);
        llama_model_free(model);
    }
};

}  // namespace

bool llamacffi_measure(
        const char ** paths, size_t n_paths, const llama_model_params * model_params,
        const llama_context_params * context_params, llamacffi_progress * progress,
        llamacffi_memory * memory, llamacffi_error * error) {
    return guarded(error, false, [&] {
        const log_demoted demoted;
        const interruptible_waits waits(progress);
        const fit_source own = {paths, n_paths, progress};
        const source_scope scope(own);
        llama_model_params params = *model_params;
        params.no_alloc = true;
        params.load_mode = LLAMA_LOAD_MODE_NONE;
        opened_model opened(params);
        opened.context = llama_init_from_model(opened.model, *context_params);
        if (opened.context == nullptr) {
            throw std::runtime_error("no context could be made");
        }
        *memory = {};
        memory->n_layer = llama_model_n_layer(opened.model);
        memory->n_ctx_train = llama_model_n_ctx_train(opened.model);
        memory->n_ctx = static_cast<int32_t>(llama_n_ctx(opened.context));
        const int32_t n_devices = std::min(llama_model_n_devices(opened.model),
                                           LLAMACFFI_MEMORY_ROWS - 1);
        memory->n_devices = n_devices;
        for (int32_t i = 0; i < n_devices; i++) {
            describe(memory->rows[i], llama_model_get_device(opened.model, i));
        }
        // Whatever is on none of the model's devices is in the host's memory: repacked weights, too.
        llamacffi_device_memory & host = memory->rows[n_devices];
        ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        if (cpu == nullptr) {
            throw std::runtime_error("the library has no CPU backend");
        }
        describe(host, cpu);
        for (const auto & [type, data] : llama_get_memory_breakdown(opened.context)) {
            ggml_backend_dev_t device =
                ggml_backend_buft_is_host(type) ? nullptr : ggml_backend_buft_get_device(type);
            int32_t i = 0;
            while (i < n_devices && device != llama_model_get_device(opened.model, i)) {
                i++;
            }
            add(memory->rows[i], data);
        }
        return true;
    });
}

int32_t llamacffi_fit(
        const char ** paths, size_t n_paths, llama_model_params * model_params,
        llama_context_params * context_params, float * tensor_split,
        llama_model_tensor_buft_override * overrides, const size_t * margins, uint32_t n_ctx_min,
        llamacffi_progress * progress, llamacffi_error * error) {
    return guarded<int32_t>(error, COMMON_PARAMS_FIT_STATUS_ERROR, [&] {
        const std::lock_guard<std::mutex> lock(fit_mutex);
        const log_demoted demoted;
        const interruptible_waits waits(progress);
        const fit_source own = {paths, n_paths, progress};
        const source_scope scope(own);
        std::vector<size_t> own_margins(margins, margins + llama_max_devices());
        return static_cast<int32_t>(common_fit_params(
            paths[0], model_params, context_params, tensor_split, overrides, own_margins.data(),
            n_ctx_min, nullptr, GGML_LOG_LEVEL_ERROR));
    });
}
