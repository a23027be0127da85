// Grammars: GBNF with the place of its errors, and JSON schemas turned into GBNF.

#include "guard.h"
#include "json-schema-to-grammar.h"
#include "llama-grammar.h"

#include <cstdlib>
#include <cstring>

using namespace llamacffi;

namespace {

const char * skip_blank(const char * text) {
    while (*text == ' ' || *text == '\t' || *text == '\r' || *text == '\n' || *text == '#') {
        if (*text == '#') {
            text += std::strcspn(text, "\r\n");
        } else {
            text++;
        }
    }
    return text;
}

// Upstream's parser says where it stopped by quoting all the rest: "expecting ')' at REST".
int64_t place_of(const std::string & message, const std::string & grammar, size_t rule_start) {
    for (size_t at = message.find(" at "); at != std::string::npos; at = message.find(" at ", at + 1)) {
        const size_t rest = message.size() - at - 4;
        if (rest <= grammar.size() &&
            grammar.compare(grammar.size() - rest, rest, message, at + 4, rest) == 0) {
            return static_cast<int64_t>(grammar.size() - rest);
        }
    }
    const bool at_end = message.find("end of input") != std::string::npos;
    return static_cast<int64_t>(at_end ? grammar.size() : rule_start);
}

struct grammar_problem {
    int64_t place;
    std::string message;
};

// What llama_grammar_parser::parse does, which prints its errors instead of returning them.
grammar_problem find_problem(const llama_vocab * vocab, const std::string & grammar, const char * root) {
    llama_grammar_parser parser(vocab);
    const char * const start = grammar.c_str();
    const char * position = skip_blank(start);
    while (*position != '\0') {
        const char * const rule = position;
        try {
            position = parser.parse_rule(position);
        } catch (const std::exception & failure) {
            const std::string message = failure.what();
            const int64_t place = place_of(message, grammar, static_cast<size_t>(rule - start));
            return {place, message.substr(0, message.find(" at " + grammar.substr(static_cast<size_t>(place))))};
        }
    }
    if (parser.symbol_ids.find(root) == parser.symbol_ids.end()) {
        return {0, std::string("there is no rule '") + root + "'"};
    }
    for (const auto & [name, id] : parser.symbol_ids) {
        if (id >= parser.rules.size() || parser.rules[id].empty()) {
            const size_t place = grammar.find(name);
            return {static_cast<int64_t>(place == std::string::npos ? 0 : place),
                    "there is no rule '" + name + "'"};
        }
    }
    return {-1, ""};
}

}  // namespace

int64_t llamacffi_grammar_check(
        const llama_vocab * vocab, const char * grammar, const char * root,
        llamacffi_error * error) {
    grammar_problem problem = {-1, ""};
    guarded(error, false, [&] {
        problem = find_problem(vocab, grammar, root);
        return true;
    });
    if (error->kind != LLAMACFFI_ERROR_NONE) {
        return 0;
    }
    report(error, LLAMACFFI_ERROR_NONE, problem.message.c_str(), "");
    return problem.place;
}

llama_sampler * llamacffi_sampler_init_grammar(
        const llama_vocab * vocab, const char * grammar, const char * root, const char ** patterns,
        size_t n_patterns, const llama_token * tokens, size_t n_tokens, llamacffi_error * error) {
    return guarded<llama_sampler *>(error, nullptr, [&] {
        if (n_patterns == 0 && n_tokens == 0) {
            return llama_sampler_init_grammar(vocab, grammar, root);
        }
        return llama_sampler_init_grammar_lazy_patterns(
            vocab, grammar, root, patterns, n_patterns, tokens, n_tokens);
    });
}

char * llamacffi_json_schema_to_grammar(const char * schema, llamacffi_error * error) {
    return guarded<char *>(error, nullptr, [&] {
        const std::string grammar = json_schema_to_grammar(common_json::parse(schema), true);
        auto * text = static_cast<char *>(std::malloc(grammar.size() + 1));
        if (text == nullptr) {
            throw std::bad_alloc();
        }
        std::memcpy(text, grammar.c_str(), grammar.size() + 1);
        return text;
    });
}

void llamacffi_free(char * text) {
    std::free(text);
}
