// States: what a context remembers as bytes, and back. Upstream's own reader trusts positions, lets
// a length in the bytes decide how much it allocates, and leaves half a memory behind when the bytes
// end early; so the memory is read here through a reader that does not.

#include "guard.h"
#include "remote.h"
#include "llama-arch.h"
#include "llama-context.h"
#include "llama-io.h"
#include "llama-kv-cells.h"
#include "llama-memory.h"
#include "llama-model.h"

#include <cstring>
#include <vector>

using namespace llamacffi;

namespace {

constexpr uint32_t sequence_magic = 0xaf143cd8;  // io_magic in llama-context.cpp
// No count, position, id or type in a state is as large as this, and none is negative.
constexpr uint32_t number_limit = 1u << 30;

class checked_reader : public llama_io_read_i {
public:
    checked_reader(const uint8_t * data, size_t size, int32_t n_vocab)
        : at(data), left(size), total(size), n_vocab(n_vocab) {}

    void read(void * target, size_t size) override {
        std::memcpy(target, take(size), size);
        // Upstream puts positions into its cells as they come. A cell at -1 counts as free and yet
        // belongs to its sequence; the next one there would be seen by both.
        uint32_t number;
        if (size == sizeof(number)) {
            std::memcpy(&number, target, size);
            if (number >= number_limit) {
                throw std::runtime_error("a number in the state is out of range: " +
                                         std::to_string(static_cast<int32_t>(number)));
            }
        }
        // Some models look up embeddings by the tokens in the cells.
        llama_kv_cell_ext cell;
        if (size == sizeof(cell)) {
            std::memcpy(&cell, target, size);
            if (cell.tok < LLAMA_TOKEN_NULL || cell.tok >= n_vocab) {
                throw std::runtime_error("a token in the state is not in the vocabulary: " +
                                         std::to_string(cell.tok));
            }
        }
    }

    void read_tensor(ggml_tensor * tensor, size_t offset, size_t size) override {
        pending.push_back({tensor, take(size), offset, size});
    }

    void discard() override { pending.clear(); }

    size_t n_bytes() override { return total - left; }

    const uint8_t * take(size_t size) {
        if (size > left) {
            throw std::runtime_error("the state ends early");
        }
        const uint8_t * const start = at;
        at += size;
        left -= size;
        return start;
    }

    // The data of the tensors is written when everything else was found right.
    void finish() {
        if (left != 0) {
            throw std::runtime_error(std::to_string(left) + " bytes are left over in the state");
        }
        for (const auto & piece : pending) {
            ggml_backend_tensor_set(piece.tensor, piece.data, piece.offset, piece.size);
        }
    }

private:
    struct piece {
        ggml_tensor * tensor;
        const uint8_t * data;
        size_t offset;
        size_t size;
    };

    const uint8_t * at;
    size_t left;
    size_t total;
    int32_t n_vocab;
    std::vector<piece> pending;
};

void expect(checked_reader & reader, const void * wanted, size_t size, const char * what) {
    if (std::memcmp(reader.take(size), wanted, size) != 0) {
        throw std::runtime_error(std::string("the state does not start with ") + what);
    }
}

void read_state(llama_context * ctx, llama_seq_id seq_id, checked_reader & reader) {
    if (seq_id < 0) {
        const std::string name = llm_arch_name(llama_get_model(ctx)->arch);
        const uint32_t length = static_cast<uint32_t>(name.size());
        expect(reader, &length, sizeof(length), "the name of the architecture");
        expect(reader, name.data(), name.size(), "the name of the architecture");
    } else {
        expect(reader, &sequence_magic, sizeof(sequence_magic), "a sequence's magic number");
        reader.take(sizeof(seq_id));  // the sequence that it was saved from
        // Upstream keeps what is there when the state of an empty sequence is loaded over it.
        llama_memory_seq_rm(llama_get_memory(ctx), seq_id, -1, -1);
    }
    llama_get_memory(ctx)->state_read(reader, seq_id, 0);
    reader.finish();
}

}  // namespace

void llamacffi_context_facts_get(
        const llama_context * ctx, llamacffi_context_facts * facts, llamacffi_error * error) {
    guarded(error, 0, [&] {
        const llama_cparams & params = ctx->get_cparams();
        facts->n_stream = params.kv_unified ? 1 : static_cast<int32_t>(params.n_seq_max);
        facts->n_ctx_orig_yarn = static_cast<int32_t>(params.n_ctx_orig_yarn);
        facts->flash_attention = params.flash_attn ? 1 : 0;
        facts->long_rope = 0;
        for (const auto & layer : llama_get_model(ctx)->layers) {  // get_rope_factors' choice
            if (layer.rope_long != nullptr && params.n_ctx_seq > params.n_ctx_orig_yarn) {
                facts->long_rope = 1;
            }
        }
        facts->causal_attention = params.causal_attn ? 1 : 0;
        facts->rope_scaling_type = params.rope_scaling_type;
        facts->rope_freq_base = params.rope_freq_base;
        facts->rope_freq_scale = params.rope_freq_scale;
        facts->yarn_ext_factor = params.yarn_ext_factor;
        facts->yarn_attn_factor = params.yarn_attn_factor;
        facts->yarn_beta_fast = params.yarn_beta_fast;
        facts->yarn_beta_slow = params.yarn_beta_slow;
        return 0;
    });
}

size_t llamacffi_state_size(llama_context * ctx, llama_seq_id seq_id, llamacffi_error * error) {
    return guarded<size_t>(error, 0, [&] {
        const interruptible_waits waits(ctx);
        return seq_id < 0 ? llama_state_get_size(ctx) : llama_state_seq_get_size(ctx, seq_id);
    });
}

size_t llamacffi_state_get(
        llama_context * ctx, llama_seq_id seq_id, uint8_t * data, size_t size,
        llamacffi_error * error) {
    return guarded<size_t>(error, 0, [&] {
        const interruptible_waits waits(ctx);
        return seq_id < 0 ? llama_state_get_data(ctx, data, size)
                          : llama_state_seq_get_data(ctx, data, size, seq_id);
    });
}

bool llamacffi_state_set(
        llama_context * ctx, llama_seq_id seq_id, const uint8_t * data, size_t size,
        llamacffi_error * error) {
    return guarded(error, false, [&] {
        const interruptible_waits waits(ctx);
        llama_synchronize(ctx);
        checked_reader reader(
            data, size, llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx))));
        try {
            read_state(ctx, seq_id, reader);
            return true;
        } catch (...) {
            // Upstream has taken some cells by then, or not, depending on where it stopped.
            if (seq_id < 0) {
                llama_memory_clear(llama_get_memory(ctx), true);
            } else {
                llama_memory_seq_rm(llama_get_memory(ctx), seq_id, -1, -1);
            }
            throw;
        }
    });
}
