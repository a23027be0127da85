// Chat templates and the parsers of answers: llama.cpp's common/chat behind JSON texts.

#include "guard.h"

#include "chat.h"
#include "llamacffi-limits.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>

using json = common_json;
using namespace llamacffi;

struct llamacffi_template {
    common_chat_templates_ptr templates;
};

struct llamacffi_parser {
    common_chat_parser_params params;
};

namespace {

constexpr auto time_allowed = std::chrono::seconds(10);
constexpr size_t bytes_allowed = 512u << 20;
constexpr size_t bytes_allowed_per_byte = 64;  // of what is rendered: it is copied some times
// Threads may have 512 KiB of stack, as macOS gives them.
constexpr int template_depth = 200;  // of up to 1.5 KiB each; upstream's own templates need 89
constexpr int answer_depth = 1000;   // of 0.35 KiB each, some eight per level of JSON

// Runs work on text that is not trusted.
template <typename Work>
auto within_limits(size_t input, int depth, Work && work) {
    limits allowed{
        std::chrono::steady_clock::now() + time_allowed,
        bytes_allowed + bytes_allowed_per_byte * input,
        depth,
    };
    struct in_force {
        limits * const outer;
        explicit in_force(limits * now) : outer(std::exchange(limits_in_force, now)) {}
        ~in_force() { limits_in_force = outer; }
    } const scope(&allowed);
    try {
        return work();
    } catch (const limit_reached & reached) {
        throw std::runtime_error(reached.what);
    }
}

json strings(const std::vector<std::string> & values) {
    json list = json::array();
    for (const auto & value : values) {
        list.push_back(value);
    }
    return list;
}

// -- which bytes of a prompt came out of the messages ------------------------------------------

// One flag per byte of a rendered text.
std::pair<std::string, std::vector<bool>> flagged(const pieces & render) {
    std::string text;
    std::vector<bool> input;
    for (const auto & [is_input, piece] : render) {
        text += piece;
        input.insert(input.end(), piece.size(), is_input);
    }
    return {text, input};
}

// The engine renders a template several times, and upstream may change the result here or there:
// the prompt is one of the renders, but for a piece of upstream's own text.
std::vector<bool> input_bytes(const std::string & prompt, const std::vector<pieces> & renders) {
    std::vector<bool> best(prompt.size(), true);  // what cannot be explained is not trusted
    size_t explained = 0;
    for (const auto & render : renders) {
        const auto [text, input] = flagged(render);
        const size_t shorter = std::min(text.size(), prompt.size());
        size_t head = 0;
        while (head < shorter && text[head] == prompt[head]) {
            head++;
        }
        size_t tail = 0;
        while (tail < shorter - head &&
               text[text.size() - 1 - tail] == prompt[prompt.size() - 1 - tail]) {
            tail++;
        }
        if (head + tail + 1 <= explained) {
            continue;
        }
        explained = head + tail + 1;
        std::fill(best.begin(), best.end(), false);
        std::copy(input.begin(), input.begin() + head, best.begin());
        std::copy(input.end() - tail, input.end(), best.end() - tail);
        // Text of upstream's is short; more than that is no longer this render.
        if (prompt.size() - head - tail > 64) {
            std::fill(best.begin() + head, best.end() - tail, true);
        }
    }
    return best;
}

json ranges(const std::vector<bool> & flags) {
    json list = json::array();
    for (size_t start = 0; start < flags.size();) {
        size_t end = start;
        while (end < flags.size() && flags[end] == flags[start]) {
            end++;
        }
        if (flags[start]) {
            list.push_back(json::array({start, end}));
        }
        start = end;
    }
    return list;
}

// -- requests and results ---------------------------------------------------------------------

common_chat_templates_inputs inputs_of(const json & request) {
    common_chat_templates_inputs inputs;
    inputs.messages = common_chat_msgs_parse_oaicompat(request.at("messages"));
    inputs.tools = common_chat_tools_parse_oaicompat(request.at("tools"));
    inputs.tool_choice = common_chat_tool_choice_parse_oaicompat(request.at("tool_choice"));
    inputs.parallel_tool_calls = request.at("parallel_tool_calls").get<bool>();
    inputs.add_generation_prompt = request.at("add_generation_prompt").get<bool>();
    inputs.enable_thinking = request.at("enable_thinking").get<bool>();
    inputs.reasoning_format = COMMON_REASONING_FORMAT_AUTO;
    if (!request.at("json_schema").is_null()) {
        inputs.json_schema = request.at("json_schema").dump();
    }
    for (const auto & [name, value] : request.at("variables").items()) {
        inputs.chat_template_kwargs[name] = value.dump();
    }
    return inputs;
}

json trigger_of(const common_grammar_trigger & trigger) {
    static const char * const names[] = {"token", "word", "pattern", "pattern_full"};
    return json{{"type", names[trigger.type]}, {"value", trigger.value}};
}

json described(const common_chat_params & params, const std::vector<pieces> & renders) {
    json triggers = json::array();
    for (const auto & trigger : params.grammar_triggers) {
        triggers.push_back(trigger_of(trigger));
    }
    return json{
        {"prompt", params.prompt},
        {"input", ranges(input_bytes(params.prompt, renders))},
        {"grammar", params.grammar},
        {"grammar_lazy", params.grammar_lazy},
        {"grammar_triggers", triggers},
        {"preserved_tokens", strings(params.preserved_tokens)},
        {"stops", strings(params.additional_stops)},
        {"supports_thinking", params.supports_thinking},
        {"thinking_start", params.thinking_start_tag},
        {"thinking_ends", strings(params.thinking_end_tags)},
        {"generation_prompt", params.generation_prompt},
        {"format", static_cast<int>(params.format)},
        {"parser", params.parser},
    };
}

}  // namespace

llamacffi_template * llamacffi_template_open(
        const char * source, const char * bos, const char * eos, llamacffi_error * error) {
    return guarded<llamacffi_template *>(error, nullptr, [&] {
        return within_limits(std::strlen(source), template_depth, [&] {
            auto opened = std::make_unique<llamacffi_template>();
            opened->templates = common_chat_templates_init(nullptr, source, bos, eos);
            return opened.release();
        });
    });
}

void llamacffi_template_close(llamacffi_template * opened) {
    delete opened;
}

char * llamacffi_template_capabilities(
        const llamacffi_template * opened, llamacffi_error * error) {
    return guarded<char *>(error, nullptr, [&] {
        json capabilities = json::object();
        for (const auto & [name, has] : common_chat_templates_get_caps(opened->templates.get())) {
            capabilities[name] = has;
        }
        return copied(capabilities.dump());
    });
}

char * llamacffi_template_render(
        const llamacffi_template * opened, const char * request, llamacffi_error * error) {
    return guarded<char *>(error, nullptr, [&] {
        return within_limits(std::strlen(request), template_depth, [&] {
            std::vector<pieces> rendered;
            struct recording {
                explicit recording(std::vector<pieces> * target) { renders = target; }
                ~recording() { renders = nullptr; }
            } const scope(&rendered);
            const auto params =
                common_chat_templates_apply(opened->templates.get(), inputs_of(json::parse(request)));
            return copied(described(params, rendered).dump());
        });
    });
}

llamacffi_parser * llamacffi_parser_open(
        const char * parser, int32_t format, const char * generation_prompt,
        llamacffi_error * error) {
    return guarded<llamacffi_parser *>(error, nullptr, [&] {
        auto opened = std::make_unique<llamacffi_parser>();
        opened->params.format = static_cast<common_chat_format>(format);
        opened->params.reasoning_format = COMMON_REASONING_FORMAT_AUTO;
        opened->params.generation_prompt = generation_prompt;
        opened->params.parser.load(parser);
        return opened.release();
    });
}

void llamacffi_parser_close(llamacffi_parser * opened) {
    delete opened;
}

char * llamacffi_parser_parse(
        const llamacffi_parser * opened, const char * text, size_t length, bool partial,
        llamacffi_error * error) {
    return guarded<char *>(error, nullptr, [&] {
        return within_limits(length, answer_depth, [&] {
            const auto message =
                common_chat_parse(std::string(text, length), partial, opened->params);
            return copied(message.to_json_oaicompat().dump());
        });
    });
}
