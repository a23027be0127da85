// The C++ side of the border: see shim.h for the contract of each function.

#include "guard.h"
#include "remote.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

namespace llamacffi {

void report(llamacffi_error * error, int32_t kind, const char * what, const std::string & log) {
    error->kind = kind;
    std::string text(what);
    if (!log.empty()) {
        text.append(text.empty() ? "" : "\n").append(log);
    }
    // The tail tells more than the head; a cut UTF-8 sequence is the reader's to replace.
    const size_t limit = sizeof(error->message) - 1;
    const size_t start = text.size() > limit ? text.size() - limit : 0;
    std::memcpy(error->message, text.data() + start, text.size() - start);
    error->message[text.size() - start] = '\0';
}

}  // namespace llamacffi

using namespace llamacffi;

// Of our patch attention-of-short-batches.diff; the header that declares it is ggml-cpu's own.
extern "C" void ggml_threadpool_set_short_tiles(struct ggml_threadpool * pool, bool on);

namespace {

// -- native log -------------------------------------------------------------------------------

struct log_line {
    int32_t level;
    std::string text;
};

constexpr size_t max_log_lines = 4096;  // a runaway log must not eat the memory of the process
constexpr size_t max_line_length = 8192;

std::mutex log_mutex;
std::deque<log_line> log_lines;
size_t log_dropped = 0;
volatile int32_t log_pending = 0;
std::atomic<int32_t> log_level{GGML_LOG_LEVEL_INFO};

// Upstream writes a line in pieces (GGML_LOG_LEVEL_CONT), possibly from several threads at once.
thread_local std::string line_text;
thread_local int32_t line_level = GGML_LOG_LEVEL_INFO;

void push_line(int32_t level, std::string text) {
    if (capture != nullptr && level >= GGML_LOG_LEVEL_WARN) {
        capture->append(text).append("\n");
    }
    if (level < log_level.load(std::memory_order_relaxed)) {
        return;
    }
    const std::lock_guard<std::mutex> lock(log_mutex);
    if (log_lines.size() >= max_log_lines) {
        log_lines.pop_front();
        log_dropped++;
    }
    log_lines.push_back({level, std::move(text)});
    log_pending = static_cast<int32_t>(log_lines.size());
}

void on_log(ggml_log_level level, const char * text, void * /*user_data*/) {
    try {
        if (level != GGML_LOG_LEVEL_CONT) {
            line_level = demote_log && level < GGML_LOG_LEVEL_ERROR ? GGML_LOG_LEVEL_DEBUG : level;
        }
        for (const char * p = text; *p != '\0'; p++) {
            if (*p == '\n' || line_text.size() >= max_line_length) {
                push_line(line_level, std::exchange(line_text, {}));
            }
            if (*p != '\n') {
                line_text.push_back(*p);
            }
        }
    } catch (...) {
        // Out of memory while logging: the line is lost, the work goes on.
    }
}

// -- guard --------------------------------------------------------------------------------------

std::atomic<int> assertions_caught{0};

// ggml_abort calls this and then abort(). Leaving by an exception is the only way not to die, and
// only a guarded thread may: a worker of ggml's thread pool has nobody to catch it. But what fails
// in a worker mostly fails in every thread of the computation, the guarded one too. So a worker
// waits for that: if it happens, the worker stays parked, since its context is given up.
void on_abort(const char * message) {
    if (guard_depth > 0) {
        assertions_caught++;
        throw failed_assertion(message);
    }
    const int before = assertions_caught.load();
    for (int i = 0; i < 200; i++) {
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
        while (assertions_caught.load() != before) {
            std::this_thread::sleep_for(std::chrono::hours(1));
        }
    }
    std::fprintf(stderr, "llamacffi: llama.cpp failed an assertion: %s\n", message);
}

bool on_progress(float value, void * user_data) {
    auto * progress = static_cast<llamacffi_progress *>(user_data);
    progress->value = value;
    return progress->cancel == 0 && !llamacffi_rpc_failed();
}

bool on_compute(void * user_data) {
    return static_cast<llamacffi_progress *>(user_data)->cancel != 0;
}

// -- layout ---------------------------------------------------------------------------------------

#define STRUCT(name) {"struct " #name, nullptr, sizeof(struct name), 0},
#define TYPEDEF_STRUCT(name) {#name, nullptr, sizeof(name), 0},
#define FIELD(name, field) \
    {"struct " #name, #field, sizeof(((struct name *) nullptr)->field), offsetof(struct name, field)},
#define CONSTANT(name) {#name, nullptr, static_cast<int64_t>(name), -1},

const llamacffi_layout_row layout_rows[] = {
#include "layout_rows.inc"
    STRUCT(llamacffi_error)
    FIELD(llamacffi_error, kind)
    FIELD(llamacffi_error, message)
    STRUCT(llamacffi_progress)
    FIELD(llamacffi_progress, value)
    FIELD(llamacffi_progress, cancel)
    STRUCT(llamacffi_selection)
    FIELD(llamacffi_selection, accept)
    STRUCT(llamacffi_context_facts)
    FIELD(llamacffi_context_facts, yarn_beta_slow)
    STRUCT(llamacffi_device_memory)
    FIELD(llamacffi_device_memory, compute)
    STRUCT(llamacffi_memory)
    FIELD(llamacffi_memory, rows)
};

}  // namespace

// -- what this library is -----------------------------------------------------------------------

int32_t llamacffi_shim_version(void) {
    return LLAMACFFI_SHIM_VERSION;
}

const char * llamacffi_commit(void) {
    return LLAMACFFI_COMMIT;
}

const llamacffi_layout_row * llamacffi_layout(int32_t * n_rows) {
    *n_rows = static_cast<int32_t>(sizeof(layout_rows) / sizeof(layout_rows[0]));
    return layout_rows;
}

void llamacffi_init(llamacffi_error * error) {
    guarded(error, 0, [&] {
        llama_log_set(on_log, nullptr);
        ggml_set_abort_callback(on_abort);
        llama_backend_init();
        return 0;
    });
}

// -- native log -----------------------------------------------------------------------------------

void llamacffi_log_set_level(int32_t level) {
    log_level.store(level, std::memory_order_relaxed);
}

volatile int32_t * llamacffi_log_pending(void) {
    return &log_pending;
}

int32_t llamacffi_log_read(int32_t * level, char * text, int32_t size) {
    log_line line;
    {
        const std::lock_guard<std::mutex> lock(log_mutex);
        if (log_dropped > 0) {
            line = {GGML_LOG_LEVEL_WARN, std::to_string(log_dropped) + " log lines were dropped"};
            log_dropped = 0;
        } else if (log_lines.empty()) {
            return -1;
        } else {
            line = std::move(log_lines.front());
            log_lines.pop_front();
        }
        log_pending = static_cast<int32_t>(log_lines.size());
    }
    *level = line.level;
    const size_t length = std::min(line.text.size(), static_cast<size_t>(size));
    std::memcpy(text, line.text.data(), length);
    return static_cast<int32_t>(length);
}

// -- models and contexts ----------------------------------------------------------------------------

llama_model * llamacffi_model_load(
        const char ** paths, size_t n_paths, const llama_model_params * params,
        llamacffi_progress * progress, llamacffi_error * error) {
    return guarded<llama_model *>(error, nullptr, [&]() -> llama_model * {
        llama_model_params own = *params;
        own.progress_callback = on_progress;
        own.progress_callback_user_data = progress;
        const interruptible_waits waits(progress);
        llama_model * model = n_paths == 1 ? llama_model_load_from_file(paths[0], own)
                                           : llama_model_load_from_splits(paths, n_paths, own);
        if (model != nullptr && llamacffi_rpc_failed()) {
            llama_model_free(model);
            return nullptr;
        }
        return model;
    });
}

llama_context * llamacffi_context_init(
        llama_model * model, const llama_context_params * params, llamacffi_progress * progress,
        llamacffi_error * error) {
    return guarded<llama_context *>(error, nullptr, [&]() -> llama_context * {
        llama_context_params own = *params;
        own.abort_callback = on_compute;
        own.abort_callback_data = progress;
        const interruptible_waits waits(progress);
        llama_context * ctx = llama_init_from_model(model, own);
        if (ctx != nullptr && llamacffi_rpc_failed()) {
            llama_free(ctx);
            return nullptr;
        }
        if (ctx != nullptr) {
            note_flag(ctx, progress);
        }
        return ctx;
    });
}

void llamacffi_context_free(llama_context * ctx) {
    forget_flag(ctx);
    llama_free(ctx);
}

llama_adapter_lora * llamacffi_adapter_load(
        llama_model * model, const char * path, llamacffi_error * error) {
    return guarded<llama_adapter_lora *>(
        error, nullptr, [&] { return llama_adapter_lora_init(model, path); });
}

int32_t llamacffi_set_adapters(
        llama_context * ctx, llama_adapter_lora ** adapters, size_t n_adapters, float * scales,
        llamacffi_error * error) {
    return guarded<int32_t>(error, -1, [&] {
        return llama_set_adapters_lora(ctx, adapters, n_adapters, scales);
    });
}

gguf_context * llamacffi_gguf_open(const char * path, llamacffi_error * error) {
    return guarded<gguf_context *>(error, nullptr, [&] {
        return gguf_init_from_file(path, {/* .no_alloc = */ true, /* .ctx = */ nullptr});
    });
}

// -- decoding -----------------------------------------------------------------------------------------

namespace {

// With devices of other machines, llama.cpp returns before they are done. Whether they will ever be
// is only known then, and those who read the outputs do not ask.
template <typename Work>
int32_t computed(llama_context * ctx, llamacffi_error * error, Work && work) {
    return guarded<int32_t>(error, INT32_MIN, [&] {
        const interruptible_waits waits(ctx);
        const int32_t code = work();
        if (llamacffi_rpc_connections() > 0) {
            llama_synchronize(ctx);
        }
        return code;
    });
}

}  // namespace

int32_t llamacffi_decode(llama_context * ctx, const llama_batch * batch, llamacffi_error * error) {
    return computed(ctx, error, [&] { return llama_decode(ctx, *batch); });
}

int32_t llamacffi_encode(llama_context * ctx, const llama_batch * batch, llamacffi_error * error) {
    return computed(ctx, error, [&] { return llama_encode(ctx, *batch); });
}

int32_t llamacffi_decode_tokens(
        llama_context * ctx, const llama_token * tokens, int32_t n_tokens, llama_pos pos,
        llama_seq_id seq_id, int32_t outputs, llamacffi_error * error) {
    return computed(ctx, error, [&] {
        const size_t n = static_cast<size_t>(n_tokens);
        std::vector<llama_pos> positions(n);
        std::vector<int32_t> counts(n, 1);
        std::vector<llama_seq_id *> sequences(n, &seq_id);
        std::vector<int8_t> flags(n, outputs == LLAMACFFI_OUTPUT_ALL ? 1 : 0);
        for (size_t i = 0; i < n; i++) {
            positions[i] = pos + static_cast<llama_pos>(i);
        }
        if (outputs == LLAMACFFI_OUTPUT_LAST) {
            flags[n - 1] = 1;
        }
        llama_batch batch = {
            n_tokens,         const_cast<llama_token *>(tokens), nullptr, positions.data(),
            counts.data(), sequences.data(),                  flags.data()};
        return llama_decode(ctx, batch);
    });
}

void llamacffi_threadpool_set_short_tiles(struct ggml_threadpool * pool, bool on) {
    ggml_threadpool_set_short_tiles(pool, on);
}

// -- memory -------------------------------------------------------------------------------------------

bool llamacffi_memory_clear(llama_context * ctx, bool data, llamacffi_error * error) {
    return guarded(error, false, [&] {
        const interruptible_waits waits(ctx);
        llama_memory_clear(llama_get_memory(ctx), data);
        return true;
    });
}

bool llamacffi_memory_seq_rm(
        llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1,
        llamacffi_error * error) {
    return guarded(error, false,
                   [&] { return llama_memory_seq_rm(llama_get_memory(ctx), seq_id, p0, p1); });
}

bool llamacffi_memory_seq_cp(
        llama_context * ctx, llama_seq_id source, llama_seq_id target, llama_pos p0, llama_pos p1,
        llamacffi_error * error) {
    return guarded(error, false, [&] {
        const interruptible_waits waits(ctx);
        llama_memory_seq_cp(llama_get_memory(ctx), source, target, p0, p1);
        return true;
    });
}

bool llamacffi_memory_seq_add(
        llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos delta,
        llamacffi_error * error) {
    return guarded(error, false, [&] {
        llama_memory_seq_add(llama_get_memory(ctx), seq_id, p0, p1, delta);
        return true;
    });
}

bool llamacffi_memory_seq_div(
        llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1, int32_t divisor,
        llamacffi_error * error) {
    return guarded(error, false, [&] {
        llama_memory_seq_div(llama_get_memory(ctx), seq_id, p0, p1, divisor);
        return true;
    });
}

// -- text -----------------------------------------------------------------------------------------------

int32_t llamacffi_tokenize(
        const llama_vocab * vocab, const char * text, int32_t text_len, llama_token * tokens,
        int32_t n_tokens_max, bool add_special, bool parse_special, llamacffi_error * error) {
    return guarded<int32_t>(error, INT32_MIN, [&] {
        return llama_tokenize(vocab, text, text_len, tokens, n_tokens_max, add_special,
                              parse_special);
    });
}

int32_t llamacffi_token_to_piece(
        const llama_vocab * vocab, llama_token token, char * buf, int32_t length, int32_t lstrip,
        bool special, llamacffi_error * error) {
    return guarded<int32_t>(error, INT32_MIN, [&] {
        return llama_token_to_piece(vocab, token, buf, length, lstrip, special);
    });
}

int32_t llamacffi_detokenize(
        const llama_vocab * vocab, const llama_token * tokens, int32_t n_tokens, char * text,
        int32_t text_len_max, bool remove_special, bool unparse_special, llamacffi_error * error) {
    return guarded<int32_t>(error, INT32_MIN, [&] {
        return llama_detokenize(vocab, tokens, n_tokens, text, text_len_max, remove_special,
                                unparse_special);
    });
}
