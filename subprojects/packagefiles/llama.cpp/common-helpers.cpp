// The helpers of common/common.cpp and common/log.cpp that the chat templates and the JSON schema
// converter call. Those files themselves would bring argument parsing, downloads, samplers and a
// logging thread along.

#include "common.h"
#include "log.h"

#include "ggml-impl.h"

#include <cstdarg>
#include <cstdio>

std::string string_join(const std::vector<std::string> & values, const std::string & separator) {
    std::string joined;
    for (size_t i = 0; i < values.size(); i++) {
        joined += (i > 0 ? separator : "") + values[i];
    }
    return joined;
}

std::string string_repeat(const std::string & text, size_t n) {
    std::string repeated;
    while (n-- > 0) {
        repeated += text;
    }
    return repeated;
}

std::vector<std::string> string_split(const std::string & text, const std::string & separator) {
    std::vector<std::string> parts;
    size_t start = 0;
    for (size_t end = text.find(separator); end != std::string::npos;
         end = text.find(separator, start)) {
        parts.push_back(text.substr(start, end - start));
        start = end + separator.size();
    }
    parts.push_back(text.substr(start));
    return parts;
}

void string_replace_all(std::string & text, const std::string & search,
                        const std::string & replacement) {
    if (search.empty()) {
        return;
    }
    std::string replaced;
    size_t start = 0;
    for (size_t found = text.find(search); found != std::string::npos;
         found = text.find(search, start)) {
        replaced.append(text, start, found - start).append(replacement);
        start = found + search.size();
    }
    text = replaced.append(text, start, std::string::npos);
}

std::vector<llama_token> common_tokenize(const struct llama_vocab * vocab, const std::string & text,
                                         bool add_special, bool parse_special) {
    const auto length = static_cast<int32_t>(text.size());
    std::vector<llama_token> tokens(text.size() + 2);
    int32_t count = llama_tokenize(vocab, text.data(), length, tokens.data(),
                                   static_cast<int32_t>(tokens.size()), add_special, parse_special);
    if (count < 0) {
        tokens.resize(-count);
        count = llama_tokenize(vocab, text.data(), length, tokens.data(), -count, add_special,
                               parse_special);
    }
    tokens.resize(count);
    return tokens;
}

std::string common_token_to_piece(const struct llama_vocab * vocab, llama_token token, bool special) {
    std::string piece(64, '\0');
    int32_t count = llama_token_to_piece(vocab, token, piece.data(),
                                         static_cast<int32_t>(piece.size()), 0, special);
    if (count < 0) {
        piece.resize(-count);
        count = llama_token_to_piece(vocab, token, piece.data(), -count, 0, special);
    }
    piece.resize(count);
    return piece;
}

// What common/ logs goes where the rest of llama.cpp logs to.
int common_log_get_verbosity_thold(void) {
    return LOG_LEVEL_WARN;
}

struct common_log * common_log_main(void) {
    return nullptr;
}

void common_log_add(struct common_log * /*log*/, ggml_log_level level, const char * format, ...) {
    char text[4096];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    ggml_log_internal(level, "%s", text);
}
