// Picking a token: what llama_sampler_sample does, with grammars beside the chain.

#include "guard.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

using namespace llamacffi;

namespace {

using candidates = std::vector<llama_token_data>;

// The token with the largest logit, the first of equals as upstream's greedy sampler does. Copying the vocabulary
// into llama_token_data first, as the chain does, costs six times as much. In blocks, so that the
// inner loop is a plain maximum that compilers vectorise.
llama_token largest(const float * logits, int32_t n) {
    constexpr int32_t block = 512;
    float best = logits[0];
    int32_t best_start = 0;
    for (int32_t start = 0; start < n; start += block) {
        const int32_t end = std::min(n, start + block);
        float high = logits[start];
        for (int32_t i = start; i < end; i++) {
            high = logits[i] > high ? logits[i] : high;
        }
        if (high > best) {
            best = high;
            best_start = start;
        }
    }
    for (int32_t i = best_start; i < n && best > -INFINITY; i++) {
        if (logits[i] == best) {
            return i;
        }
    }
    return LLAMA_TOKEN_NULL;  // every logit is -inf or NaN
}

bool is_greedy(llama_sampler * chain) {
    return llama_sampler_chain_n(chain) == 1 &&
           std::strcmp(llama_sampler_name(llama_sampler_chain_get(chain, 0)), "greedy") == 0;
}

void load(candidates & all, const float * logits, int32_t n) {
    all.resize(static_cast<size_t>(n));
    for (llama_token token = 0; token < n; token++) {
        all[static_cast<size_t>(token)] = {token, logits[token], 0.0f};
    }
}

llama_token selected(const llama_token_data_array & array) {
    if (array.selected < 0 || array.selected >= static_cast<int64_t>(array.size)) {
        throw std::runtime_error("the chain selected no token");
    }
    const llama_token_data & chosen = array.data[array.selected];
    return chosen.logit > -INFINITY ? chosen.id : LLAMA_TOKEN_NULL;
}

class picker {
  public:
    picker(const llamacffi_selection & selection, const float * logits, int32_t n_vocab)
        : selection(selection), logits(logits), n_vocab(n_vocab) {}

    // Without the grammars.
    llama_token pick_freely() {
        if (is_greedy(selection.chain)) {
            return largest(logits, n_vocab);
        }
        load(all, logits, n_vocab);
        llama_token_data_array array = {all.data(), all.size(), -1, false};
        llama_sampler_apply(selection.chain, &array);
        return selected(array);
    }

    bool allowed(llama_token token) const {
        llama_token_data one = {token, 1.0f, 0.0f};
        llama_token_data_array array = {&one, 1, -1, false};
        for (int32_t i = 0; i < selection.n_grammars; i++) {
            llama_sampler_apply(selection.grammars[i], &array);
        }
        return one.logit != -INFINITY;
    }

    // Among what the grammars allow; LLAMA_TOKEN_NULL if that is nothing. Asking a grammar about
    // the whole vocabulary takes as long as computing a token. Where the chain looks at no more
    // than its best n_keep candidates, they are found by asking about the best ones first.
    llama_token pick_allowed() {
        load(all, logits, n_vocab);
        for (const llama_token token : refused) {
            all[static_cast<size_t>(token)].logit = -INFINITY;
        }
        llama_token_data_array array = {all.data(), all.size(), -1, false};
        for (int32_t i = 0; i < selection.n_wide; i++) {
            llama_sampler_apply(llama_sampler_chain_get(selection.chain, i), &array);
        }
        const size_t wanted = selection.n_keep > 0 ? static_cast<size_t>(selection.n_keep) : array.size;
        candidates kept;
        size_t step = std::max<size_t>(64, 2 * wanted);
        for (size_t first = 0; first < array.size && kept.size() < wanted; step *= 4) {
            const size_t count = std::min(step, array.size - first);
            llama_token_data * begin = array.data + first;
            if (first + count < array.size) {
                std::partial_sort(
                    begin, begin + count, array.data + array.size,
                    [](const auto & a, const auto & b) { return a.logit > b.logit; });
            }
            llama_token_data_array part = {begin, count, -1, false};
            for (int32_t i = 0; i < selection.n_grammars; i++) {
                llama_sampler_apply(selection.grammars[i], &part);
            }
            std::copy_if(begin, begin + count, std::back_inserter(kept),
                         [](const auto & candidate) { return candidate.logit != -INFINITY; });
            first += count;
        }
        if (kept.empty()) {
            return LLAMA_TOKEN_NULL;
        }
        array = {kept.data(), kept.size(), -1, false};
        const int32_t n_nodes = llama_sampler_chain_n(selection.chain);
        for (int32_t i = selection.n_wide; i < n_nodes; i++) {
            llama_sampler_apply(llama_sampler_chain_get(selection.chain, i), &array);
        }
        return selected(array);
    }

    // What a grammar has refused although it had allowed it: upstream looks at less there.
    void refuse(llama_token token) {
        refused.push_back(token);
    }

    void accept(llama_token token) {
        for (int32_t i = 0; i < selection.n_grammars; i++) {
            llama_sampler_accept(selection.grammars[i], token);
        }
        llama_sampler_accept(selection.chain, token);
    }

  private:
    const llamacffi_selection & selection;
    const float * const logits;
    const int32_t n_vocab;
    std::vector<llama_token> refused;
    // Kept from token to token: half a megabyte that would be faulted in each time.
    static thread_local candidates all;
};

thread_local candidates picker::all;

}  // namespace

llama_token llamacffi_sample(
        const llamacffi_selection * selection, llama_context * ctx, int32_t idx,
        llamacffi_error * error) {
    return guarded<llama_token>(error, LLAMA_TOKEN_NULL, [&] {
        const float * logits = llama_get_logits_ith(ctx, idx);
        if (logits == nullptr) {
            throw std::invalid_argument("no logits at this index");
        }
        const llama_vocab * vocab = llama_model_get_vocab(llama_get_model(ctx));
        picker picker(*selection, logits, llama_vocab_n_tokens(vocab));
        llama_token token = picker.pick_freely();
        if (token != LLAMA_TOKEN_NULL && !picker.allowed(token)) {
            token = picker.pick_allowed();
        }
        constexpr int max_refusals = 64;
        for (int i = 0; selection->accept && token != LLAMA_TOKEN_NULL; i++) {
            try {
                picker.accept(token);
                break;
            } catch (const std::runtime_error &) {
                if (selection->n_grammars == 0 || i == max_refusals) {
                    throw;
                }
                picker.refuse(token);
                token = picker.pick_allowed();
            }
        }
        return token;
    });
}

bool llamacffi_sampler_accept(llama_sampler * sampler, llama_token token, llamacffi_error * error) {
    return guarded(error, false, [&] {
        llama_sampler_accept(sampler, token);
        return true;
    });
}

bool llamacffi_sampler_apply(
        llama_sampler * sampler, llama_token_data_array * candidates, llamacffi_error * error) {
    return guarded(error, false, [&] {
        llama_sampler_apply(sampler, candidates);
        return true;
    });
}

llama_sampler * llamacffi_sampler_clone(const llama_sampler * sampler, llamacffi_error * error) {
    return guarded<llama_sampler *>(error, nullptr, [&] { return llama_sampler_clone(sampler); });
}
