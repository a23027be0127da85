/* The narrow C interface that is compiled into every llamacffi library, beside llama.cpp's own.
 *
 * Read twice: by the C++ compiler for shim*.cpp, and by cffi for the declarations (which cuts
 * everything between the two "cffi:" lines below). Bump LLAMACFFI_SHIM_VERSION with every change
 * of meaning; sizes and signatures are compared at load in any case.
 *
 * Guarded functions catch C++ exceptions and failed assertions of llama.cpp, which would
 * otherwise end the process. They report through an llamacffi_error and return the value named.
 */
/* cffi: skip */
#pragma once
#include "llama.h"

#if defined(_WIN32)
#define LLAMACFFI_API __declspec(dllexport)
#else
#define LLAMACFFI_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif
/* cffi: end skip */

#define LLAMACFFI_SHIM_VERSION 7

#define LLAMACFFI_ERROR_NONE 0      /* message, if any, is the captured native log */
#define LLAMACFFI_ERROR_EXCEPTION 1 /* a C++ exception; the object is still usable */
#define LLAMACFFI_ERROR_ASSERTION 2 /* an assertion of ggml failed; the object must be abandoned */
#define LLAMACFFI_ERROR_MEMORY 3    /* std::bad_alloc */
#define LLAMACFFI_ERROR_REMOTE 4    /* a server's connection failed; only to be freed from now on */
#define LLAMACFFI_ERROR_REMOTE_ASSERTION 5 /* the same, and an assertion; must be abandoned */

#define LLAMACFFI_OUTPUT_NONE 0
#define LLAMACFFI_OUTPUT_LAST 1
#define LLAMACFFI_OUTPUT_ALL 2

#define LLAMACFFI_FIT_SUCCESS 0 /* enum common_params_fit_status */
#define LLAMACFFI_FIT_FAILURE 1 /* nothing was found that fits */
#define LLAMACFFI_FIT_ERROR 2   /* the model could not be loaded */

#define LLAMACFFI_MEMORY_ROWS 17 /* llama_max_devices(), and the host */

struct llamacffi_error {
    int32_t kind;       /* LLAMACFFI_ERROR_* */
    char message[4092]; /* UTF-8, NUL-terminated; warnings and errors logged during the call */
};

struct llamacffi_progress {
    volatile float value;    /* written by the library: 0.0 to 1.0 */
    volatile int32_t cancel; /* written by the caller: non-zero stops the work */
};

struct llamacffi_layout_row {
    const char * name;  /* "struct llama_batch", or the constant's name */
    const char * field; /* NULL for a whole struct or a constant */
    int64_t size;       /* bytes; the value for a constant */
    int64_t offset;     /* bytes from the start of the struct */
};

/* -- what this library is ------------------------------------------------------------------- */
LLAMACFFI_API int32_t llamacffi_shim_version(void);
LLAMACFFI_API const char * llamacffi_commit(void);
LLAMACFFI_API const struct llamacffi_layout_row * llamacffi_layout(int32_t * n_rows);

/* Installs the log and assertion hooks and calls llama_backend_init. Once per library. */
LLAMACFFI_API void llamacffi_init(struct llamacffi_error * error);

/* -- native log: lines are kept in a bounded queue until they are read ----------------------- */
LLAMACFFI_API void llamacffi_log_set_level(int32_t level); /* enum ggml_log_level; lower is dropped */
LLAMACFFI_API volatile int32_t * llamacffi_log_pending(void); /* number of lines to read */
/* Takes the oldest line: its length (cut to size), or -1 when there is none. */
LLAMACFFI_API int32_t llamacffi_log_read(int32_t * level, char * text, int32_t size);

/* -- models and contexts ---------------------------------------------------------------------- */
LLAMACFFI_API struct llama_model * llamacffi_model_load(
    const char ** paths, size_t n_paths, const struct llama_model_params * params,
    struct llamacffi_progress * progress, struct llamacffi_error * error);
LLAMACFFI_API struct llama_context * llamacffi_context_init(
    struct llama_model * model, const struct llama_context_params * params,
    struct llamacffi_progress * progress, struct llamacffi_error * error);
LLAMACFFI_API void llamacffi_context_free(struct llama_context * ctx);
LLAMACFFI_API struct llama_adapter_lora * llamacffi_adapter_load(
    struct llama_model * model, const char * path, struct llamacffi_error * error);
LLAMACFFI_API int32_t llamacffi_set_adapters(
    struct llama_context * ctx, struct llama_adapter_lora ** adapters, size_t n_adapters,
    float * scales, struct llamacffi_error * error);
LLAMACFFI_API struct gguf_context * llamacffi_gguf_open(
    const char * path, struct llamacffi_error * error);

/* -- fitting: what a model and a context of it take, without the memory being taken -------------- */
/* Bytes. The names are the library's own. */
struct llamacffi_device_memory {
    const char * name;
    const char * description;
    int64_t total; /* 0 where the device does not say */
    int64_t free;
    int64_t weights;
    int64_t cache;
    int64_t compute;
};
struct llamacffi_memory {
    int32_t n_devices; /* rows of devices, in the model's order; the host's row is behind them */
    int32_t n_layer;
    int32_t n_ctx_train;
    int32_t n_ctx; /* what the context was made with */
    struct llamacffi_device_memory rows[LLAMACFFI_MEMORY_ROWS];
};
/* Loads the header and vocabulary and makes a context, both without buffers. */
LLAMACFFI_API bool llamacffi_measure(
    const char ** paths, size_t n_paths, const struct llama_model_params * model_params,
    const struct llama_context_params * context_params, struct llamacffi_progress * progress,
    struct llamacffi_memory * memory, struct llamacffi_error * error);
/* common_fit_params: changes the parameters so that the free memory of the devices, less margins
 * (llama_max_devices() numbers), suffices; returns LLAMACFFI_FIT_*. tensor_split and overrides have room
 * for llama_max_devices() and llama_max_tensor_buft_overrides() entries; patterns are the library's own.
 * n_ctx is shortened if it is 0, to n_ctx_min at least. One fit runs at a time. */
LLAMACFFI_API int32_t llamacffi_fit(
    const char ** paths, size_t n_paths, struct llama_model_params * model_params,
    struct llama_context_params * context_params, float * tensor_split,
    struct llama_model_tensor_buft_override * overrides, const size_t * margins, uint32_t n_ctx_min,
    struct llamacffi_progress * progress, struct llamacffi_error * error);
/* -- devices of other machines: ggml-rpc -------------------------------------------------------- */
/* A connection to one server, for one model. When it fails, every guarded call that needs it reports
 * LLAMACFFI_ERROR_REMOTE at once, and what it would have read is zero. */
struct llamacffi_remote;
LLAMACFFI_API int32_t llamacffi_remote_protocol(void); /* major << 16 | minor << 8 | patch */
/* Takes over a connected socket, whose handshake is done. The devices are named from RPC<first> on;
 * timeout_ms is how long the server may let us wait. */
LLAMACFFI_API struct llamacffi_remote * llamacffi_remote_open(
    intptr_t socket, const char * endpoint, int32_t n_devices, int32_t first, int64_t timeout_ms,
    struct llamacffi_error * error);
LLAMACFFI_API ggml_backend_dev_t llamacffi_remote_device(
    struct llamacffi_remote * remote, int32_t index);
LLAMACFFI_API bool llamacffi_remote_memory(
    ggml_backend_dev_t device, size_t * free, size_t * total, struct llamacffi_error * error);
/* After the model that uses it has been freed. */
LLAMACFFI_API void llamacffi_remote_close(struct llamacffi_remote * remote);
/* The server's side: answers one client on a connected socket until it goes. */
LLAMACFFI_API void llamacffi_remote_serve(
    intptr_t socket, const char * cache_dir, const ggml_backend_dev_t * devices, int32_t n_devices,
    int32_t n_threads, struct llamacffi_error * error);

/* -- decoding: llama_decode's return value, or INT32_MIN when error->kind is set --------------- */
LLAMACFFI_API int32_t llamacffi_decode(
    struct llama_context * ctx, const struct llama_batch * batch, struct llamacffi_error * error);
LLAMACFFI_API int32_t llamacffi_encode(
    struct llama_context * ctx, const struct llama_batch * batch, struct llamacffi_error * error);
/* One sequence, consecutive positions from pos on; outputs is LLAMACFFI_OUTPUT_*. */
LLAMACFFI_API int32_t llamacffi_decode_tokens(
    struct llama_context * ctx, const llama_token * tokens, int32_t n_tokens, llama_pos pos,
    llama_seq_id seq_id, int32_t outputs, struct llamacffi_error * error);

/* Lets the attention of batches of 8 to 63 tokens take ggml's tiles too, which is faster behind a
 * long text, but rounds otherwise than single tokens do. */
LLAMACFFI_API void llamacffi_threadpool_set_short_tiles(struct ggml_threadpool * pool, bool on);

/* -- memory ----------------------------------------------------------------------------------- */
LLAMACFFI_API bool llamacffi_memory_clear(
    struct llama_context * ctx, bool data, struct llamacffi_error * error);
LLAMACFFI_API bool llamacffi_memory_seq_rm(
    struct llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1,
    struct llamacffi_error * error);
LLAMACFFI_API bool llamacffi_memory_seq_cp(
    struct llama_context * ctx, llama_seq_id source, llama_seq_id target, llama_pos p0,
    llama_pos p1, struct llamacffi_error * error);
LLAMACFFI_API bool llamacffi_memory_seq_add(
    struct llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos delta,
    struct llamacffi_error * error);
LLAMACFFI_API bool llamacffi_memory_seq_div(
    struct llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1, int32_t divisor,
    struct llamacffi_error * error);

/* -- states: what a context remembers as bytes; seq_id -1 stands for all sequences ------------- */
/* What the bytes depend on beside the model and the cache's types, as llama.cpp resolved it. */
struct llamacffi_context_facts {
    int32_t n_stream; /* buffers that the cache is divided in */
    int32_t n_ctx_orig_yarn;
    int32_t flash_attention; /* 0: the values are stored transposed */
    int32_t causal_attention;
    int32_t long_rope; /* LongRoPE's table for contexts beyond the training is in use */
    int32_t rope_scaling_type;
    float rope_freq_base;
    float rope_freq_scale;
    float yarn_ext_factor;
    float yarn_attn_factor;
    float yarn_beta_fast;
    float yarn_beta_slow;
};
LLAMACFFI_API void llamacffi_context_facts_get(
    const struct llama_context * ctx, struct llamacffi_context_facts * facts,
    struct llamacffi_error * error);
/* Bytes; 0 with a message in the error if it cannot be written. */
LLAMACFFI_API size_t llamacffi_state_size(
    struct llama_context * ctx, llama_seq_id seq_id, struct llamacffi_error * error);
LLAMACFFI_API size_t llamacffi_state_get(
    struct llama_context * ctx, llama_seq_id seq_id, uint8_t * data, size_t size,
    struct llamacffi_error * error);
/* All of the bytes or nothing: where they are wrong, the sequence (or everything) is forgotten, an
 * error of any kind is reported, and the context is good for use nevertheless. */
LLAMACFFI_API bool llamacffi_state_set(
    struct llama_context * ctx, llama_seq_id seq_id, const uint8_t * data, size_t size,
    struct llamacffi_error * error);

/* -- text: llama.h's meaning; INT32_MIN with error->kind set on an exception ------------------- */
LLAMACFFI_API int32_t llamacffi_tokenize(
    const struct llama_vocab * vocab, const char * text, int32_t text_len, llama_token * tokens,
    int32_t n_tokens_max, bool add_special, bool parse_special, struct llamacffi_error * error);
LLAMACFFI_API int32_t llamacffi_token_to_piece(
    const struct llama_vocab * vocab, llama_token token, char * buf, int32_t length,
    int32_t lstrip, bool special, struct llamacffi_error * error);
LLAMACFFI_API int32_t llamacffi_detokenize(
    const struct llama_vocab * vocab, const llama_token * tokens, int32_t n_tokens, char * text,
    int32_t text_len_max, bool remove_special, bool unparse_special,
    struct llamacffi_error * error);

/* -- sampling: LLAMA_TOKEN_NULL or NULL with error->kind set on an exception -------------------- */

/* How a token is picked: by a chain, and inside what grammars allow. */
struct llamacffi_selection {
    struct llama_sampler * chain;
    struct llama_sampler ** grammars;
    int32_t n_grammars;
    int32_t n_wide; /* leading nodes of the chain that must see every candidate */
    int32_t n_keep; /* best candidates that suffice for the nodes after those; 0 for all */
    int32_t accept; /* whether the picked token is accepted, too */
};

/* Picks a token by llama_sampler_sample's rules, and accepts it if wanted. The grammars are asked about the
 * picked token first, and about others only if they refuse it (as common_sampler_sample does).
 * LLAMA_TOKEN_NULL without an error: every token is at -inf, or refused by a grammar. */
LLAMACFFI_API llama_token llamacffi_sample(
    const struct llamacffi_selection * selection, struct llama_context * ctx, int32_t idx,
    struct llamacffi_error * error);
LLAMACFFI_API bool llamacffi_sampler_accept(
    struct llama_sampler * sampler, llama_token token, struct llamacffi_error * error);
LLAMACFFI_API bool llamacffi_sampler_apply(
    struct llama_sampler * sampler, llama_token_data_array * candidates,
    struct llamacffi_error * error);
LLAMACFFI_API struct llama_sampler * llamacffi_sampler_clone(
    const struct llama_sampler * sampler, struct llamacffi_error * error);

/* -- grammars --------------------------------------------------------------------------------- */
/* Parses GBNF text: the byte where it goes wrong (error->message says why), or -1 if it does not. */
LLAMACFFI_API int64_t llamacffi_grammar_check(
    const struct llama_vocab * vocab, const char * grammar, const char * root,
    struct llamacffi_error * error);
/* A node of the kind of llama_sampler_init_grammar, for text that passed the check. Unlike that one
 * it keeps its state when it refuses a token. */
LLAMACFFI_API struct llama_sampler * llamacffi_sampler_init_grammar(
    const struct llama_vocab * vocab, const char * grammar, const char * root,
    struct llamacffi_error * error);
/* Accepts text that comes before the next token; false, with the state kept, if it is refused. */
LLAMACFFI_API bool llamacffi_grammar_accept_text(
    struct llama_sampler * sampler, const char * text, size_t length,
    struct llamacffi_error * error);
/* json_schema_to_grammar of llama.cpp's common/: GBNF text, to be freed with llamacffi_free. */
LLAMACFFI_API char * llamacffi_json_schema_to_grammar(
    const char * schema, struct llamacffi_error * error);
LLAMACFFI_API void llamacffi_free(char * text);

/* -- chat templates and answers: common/chat of llama.cpp --------------------------------------- */
/* Texts that are returned are JSON, to be freed with llamacffi_free. Templates and answers are not
 * trusted: time, memory and nesting are limited; error->message says which limit was reached. */
struct llamacffi_template;
struct llamacffi_parser;

/* A Jinja text, and what bos_token and eos_token stand for in it. */
LLAMACFFI_API struct llamacffi_template * llamacffi_template_open(
    const char * source, const char * bos, const char * eos, struct llamacffi_error * error);
LLAMACFFI_API void llamacffi_template_close(struct llamacffi_template * opened);
LLAMACFFI_API char * llamacffi_template_capabilities(
    const struct llamacffi_template * opened, struct llamacffi_error * error);
/* common_chat_templates_apply. "input" in the result are the byte ranges of the prompt that came out
 * of the messages and tools, not of the template. */
LLAMACFFI_API char * llamacffi_template_render(
    const struct llamacffi_template * opened, const char * request, struct llamacffi_error * error);

/* What reads an answer, from "parser", "format" and "generation_prompt" of a rendered request. */
LLAMACFFI_API struct llamacffi_parser * llamacffi_parser_open(
    const char * parser, int32_t format, const char * generation_prompt,
    struct llamacffi_error * error);
LLAMACFFI_API void llamacffi_parser_close(struct llamacffi_parser * opened);
/* common_chat_parse: an OpenAI message; partial for an answer that is still being generated. */
LLAMACFFI_API char * llamacffi_parser_parse(
    const struct llamacffi_parser * opened, const char * text, size_t length, bool partial,
    struct llamacffi_error * error);

/* cffi: skip */
#ifdef __cplusplus
}
#endif
/* cffi: end skip */
