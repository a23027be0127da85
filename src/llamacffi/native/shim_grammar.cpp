// Grammars: GBNF with the place of its errors, a sampler that follows it, and GBNF of JSON schemas.

#include "guard.h"
#include "json-schema-to-grammar.h"
#include "llama-grammar.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <numeric>
#include <vector>

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

bool is_name(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '-';
}

// Where a name stands as a name: outside of comments, literals, sets and tokens.
int64_t find_name(const std::string & grammar, const std::string & name) {
    size_t i = 0;
    const auto skip_to = [&](char end) {
        for (i++; i < grammar.size() && grammar[i] != end; i++) {
            i += grammar[i] == '\\' ? 1 : 0;
        }
        i++;
    };
    while (i < grammar.size()) {
        switch (grammar[i]) {
        case '#': i = std::min(grammar.find_first_of("\r\n", i), grammar.size()); break;
        case '"': skip_to('"'); break;
        case '[': skip_to(']'); break;
        case '<': skip_to('>'); break;
        default: {
            size_t end = i;
            while (end < grammar.size() && is_name(grammar[end])) {
                end++;
            }
            if (grammar.compare(i, end - i, name) == 0) {
                return static_cast<int64_t>(i);
            }
            i = std::max(end, i + 1);
        }
        }
    }
    return 0;
}

// What stands first in each alternative of a rule: itself, or what follows a rule that may be empty.
// Left recursion, and chains of rules that upstream's recursive functions could not follow, show
// there. Upstream's own check takes a rule for empty only if an alternative has no symbol at all.
class rule_graph {
  public:
    explicit rule_graph(const llama_grammar_rules & rules)
        : rules(rules), may_be_empty(rules.size(), false), users(rules.size()) {
        for (uint32_t id = 0; id < rules.size(); id++) {
            for (const auto & element : rules[id]) {
                if (element.type == LLAMA_GRETYPE_RULE_REF) {
                    users[element.value].push_back(id);
                }
            }
        }
        std::vector<uint32_t> changed;
        const auto look = [&](uint32_t id) {
            if (!may_be_empty[id] && has_empty_alternative(rules[id])) {
                may_be_empty[id] = true;
                changed.push_back(id);
            }
        };
        for (uint32_t id = 0; id < rules.size(); id++) {
            look(id);
        }
        while (!changed.empty()) {
            const uint32_t id = changed.back();
            changed.pop_back();
            for (const uint32_t user : users[id]) {
                look(user);
            }
        }
    }

    // A rule that upstream cannot follow, and why; -1 if there is none. Rules that can begin with one
    // another, round in a circle, are harmless where nothing follows them, as in ("a"*)*; otherwise
    // the stack of what is still to come grows for ever.
    std::pair<int64_t, const char *> problem() const {
        const std::vector<uint32_t> circle = circles();
        std::vector<size_t> size(rules.size(), 0);
        for (const uint32_t c : circle) {
            size[c]++;
        }
        // Circles are numbered from the innermost: what a rule begins with comes before it.
        std::vector<size_t> depth(rules.size(), 0);
        std::vector<uint32_t> order(rules.size());
        std::iota(order.begin(), order.end(), 0);
        std::sort(order.begin(), order.end(),
                  [&](uint32_t a, uint32_t b) { return circle[a] < circle[b]; });
        for (const uint32_t id : order) {
            size_t deepest = 0;
            for (const edge & to : first_of(rules[id])) {
                if (circle[to.id] != circle[id]) {
                    deepest = std::max(deepest, depth[circle[to.id]]);
                } else if (!to.last) {
                    return {id, "the rule can begin with itself (left recursion)"};
                }
            }
            size_t & found = depth[circle[id]];
            found = std::max(found, deepest + size[circle[id]]);
            if (found > max_depth) {
                return {id, "too many rules begin with one another"};
            }
        }
        return {-1, nullptr};
    }

  private:
    static constexpr size_t max_depth = 2000;

    struct edge {
        uint32_t id;
        bool last;  // nothing follows it in its alternative
    };

    const llama_grammar_rules & rules;
    std::vector<bool> may_be_empty;
    std::vector<std::vector<uint32_t>> users;

    static bool is_end(const llama_grammar_element & element) {
        return element.type == LLAMA_GRETYPE_END || element.type == LLAMA_GRETYPE_ALT;
    }

    bool has_empty_alternative(const llama_grammar_rule & rule) const {
        bool empty = true;
        for (const auto & element : rule) {
            if (is_end(element)) {
                if (empty) {
                    return true;
                }
                empty = true;
            } else {
                empty = empty && element.type == LLAMA_GRETYPE_RULE_REF && may_be_empty[element.value];
            }
        }
        return false;
    }

    std::vector<edge> first_of(const llama_grammar_rule & rule) const {
        std::vector<edge> first;
        bool at_start = true;
        for (size_t i = 0; i < rule.size(); i++) {
            if (is_end(rule[i])) {
                at_start = true;
            } else if (at_start && rule[i].type == LLAMA_GRETYPE_RULE_REF) {
                first.push_back({rule[i].value, is_end(rule[i + 1])});
                at_start = may_be_empty[rule[i].value];
            } else {
                at_start = false;
            }
        }
        return first;
    }

    // Tarjan's strongly connected components, without recursion: the number of each rule's.
    std::vector<uint32_t> circles() const {
        constexpr uint32_t none = UINT32_MAX;
        std::vector<uint32_t> circle(rules.size(), none), index(rules.size(), none), low(rules.size());
        std::vector<uint32_t> stack;
        uint32_t n_seen = 0, n_circles = 0;
        struct visit {
            uint32_t id;
            std::vector<edge> first;
            size_t next;
        };
        for (uint32_t start = 0; start < rules.size(); start++) {
            if (index[start] != none) {
                continue;
            }
            std::vector<visit> path;
            const auto enter = [&](uint32_t id) {
                index[id] = low[id] = n_seen++;
                stack.push_back(id);
                path.push_back({id, first_of(rules[id]), 0});
            };
            enter(start);
            while (!path.empty()) {
                visit & top = path.back();
                const uint32_t id = top.id;
                if (top.next < top.first.size()) {
                    const uint32_t to = top.first[top.next++].id;
                    if (index[to] == none) {
                        enter(to);
                    } else if (circle[to] == none) {
                        low[id] = std::min(low[id], index[to]);
                    }
                    continue;
                }
                path.pop_back();
                if (!path.empty()) {
                    low[path.back().id] = std::min(low[path.back().id], low[id]);
                }
                if (low[id] == index[id]) {
                    uint32_t member;
                    do {
                        member = stack.back();
                        stack.pop_back();
                        circle[member] = n_circles;
                    } while (member != id);
                    n_circles++;
                }
            }
        }
        return circle;
    }
};

// Upstream names the parts of a rule after it: "item_17".
std::string written_name(const llama_grammar_parser & parser, uint32_t id) {
    for (const auto & [name, other] : parser.symbol_ids) {
        if (other == id) {
            return name.substr(0, name.find('_'));
        }
    }
    return "";
}

// Upstream quotes the rest of the text behind its words, or says only which function failed.
std::string readable(const std::string & message, const std::string & rest) {
    if (message.rfind("sto", 0) == 0) {
        return message == "stoul" ? "a token id is too large" : "a number is too large";
    }
    const size_t quoted = message.rfind(" at " + rest);
    return message.substr(0, quoted);
}

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
            int64_t place = place_of(message, grammar, static_cast<size_t>(rule - start));
            const std::string rest = grammar.substr(static_cast<size_t>(place));
            if (message.rfind("expecting preceding item", 0) == 0) {  // quotes what follows it
                place = static_cast<int64_t>(grammar.find_last_of("*+?{", static_cast<size_t>(place) - 1));
            }
            return {place, readable(message, rest)};
        }
    }
    if (parser.symbol_ids.find(root) == parser.symbol_ids.end()) {
        return {0, std::string("there is no rule '") + root + "'"};
    }
    for (const auto & [name, id] : parser.symbol_ids) {
        if (id >= parser.rules.size() || parser.rules[id].empty()) {
            return {find_name(grammar, name), "there is no rule '" + name + "'"};
        }
    }
    const auto [id, why] = rule_graph(parser.rules).problem();
    if (id >= 0) {
        const std::string name = written_name(parser, static_cast<uint32_t>(id));
        return {find_name(grammar, name), "'" + name + "': " + why};
    }
    return {-1, ""};
}

// -- the sampler --------------------------------------------------------------------------------

struct grammar_deleter {
    void operator()(llama_grammar * grammar) const {
        llama_grammar_free_impl(grammar);
    }
};

struct grammar_state {
    const llama_vocab * vocab;
    std::string text;
    std::string root;
    std::unique_ptr<llama_grammar, grammar_deleter> grammar;
    llama_grammar_stacks first;  // the stacks to begin with

    grammar_state(const llama_vocab * vocab, std::string text, std::string root)
        : vocab(vocab), text(std::move(text)), root(std::move(root)),
          grammar(llama_grammar_init_impl(vocab, this->text.c_str(), this->root.c_str(), false,
                                          nullptr, 0, nullptr, 0)) {
        if (!grammar || grammar->stacks.empty()) {
            throw std::runtime_error("no text follows the grammar");
        }
        first = grammar->stacks;
    }

    bool may_end() const {
        return std::any_of(grammar->stacks.begin(), grammar->stacks.end(),
                           [](const auto & stack) { return stack.empty(); });
    }

    // Runs work, which may throw half-way and leave the grammar without stacks.
    template <typename Work> void change(Work && work) {
        const llama_grammar_stacks stacks = grammar->stacks;
        const llama_partial_utf8 partial = grammar->partial_utf8;
        try {
            work();
        } catch (...) {
            grammar->stacks = stacks;
            grammar->partial_utf8 = partial;
            throw;
        }
    }

    void accept(llama_token token) {
        if (llama_vocab_is_eog(vocab, token)) {
            if (!may_end()) {
                throw std::runtime_error("the grammar does not allow the text to end here");
            }
            return;
        }
        change([&] { llama_grammar_accept_impl(*grammar, token); });
    }

    // The same place in another grammar of the same text: its rules are laid out alike.
    llama_grammar_stacks moved_to(const llama_grammar & other) const {
        std::map<const llama_grammar_element *, size_t> starts;
        for (size_t i = 0; i < grammar->rules.size(); i++) {
            starts[grammar->rules[i].data()] = i;
        }
        llama_grammar_stacks moved = grammar->stacks;
        for (auto & stack : moved) {
            for (auto & element : stack) {
                const auto rule = std::prev(starts.upper_bound(element));
                element = other.rules[rule->second].data() + (element - rule->first);
            }
        }
        return moved;
    }
};

grammar_state & state_of(const llama_sampler * sampler) {
    return *static_cast<grammar_state *>(sampler->ctx);
}

extern llama_sampler_i grammar_interface;

llama_sampler * clone_grammar(const llama_sampler * sampler) {
    const grammar_state & state = state_of(sampler);
    auto copy = std::make_unique<grammar_state>(state.vocab, state.text, state.root);
    copy->grammar->stacks = state.moved_to(*copy->grammar);
    copy->grammar->partial_utf8 = state.grammar->partial_utf8;
    return llama_sampler_init(&grammar_interface, copy.release());
}

llama_sampler_i grammar_interface = {
    /* .name              = */ [](const llama_sampler *) { return "grammar"; },
    /* .accept            = */ [](llama_sampler * s, llama_token token) { state_of(s).accept(token); },
    /* .apply             = */
    [](llama_sampler * s, llama_token_data_array * candidates) {
        llama_grammar_apply_impl(*state_of(s).grammar, candidates);
    },
    /* .reset             = */
    [](llama_sampler * s) {
        state_of(s).grammar->stacks = state_of(s).first;
        state_of(s).grammar->partial_utf8 = {};
    },
    /* .clone             = */ clone_grammar,
    /* .free              = */ [](llama_sampler * s) { delete &state_of(s); },
    /* .backend_init      = */ nullptr,
    /* .backend_accept    = */ nullptr,
    /* .backend_apply     = */ nullptr,
    /* .backend_set_input = */ nullptr,
    /* .backend_reset     = */ nullptr,
    /* .copy_state        = */ nullptr,
};

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
        const llama_vocab * vocab, const char * grammar, const char * root,
        llamacffi_error * error) {
    return guarded<llama_sampler *>(error, nullptr, [&] {
        auto state = std::make_unique<grammar_state>(vocab, grammar, root);
        return llama_sampler_init(&grammar_interface, state.release());
    });
}

bool llamacffi_grammar_accept_text(
        llama_sampler * sampler, const char * text, size_t length, llamacffi_error * error) {
    return guarded(error, false, [&] {
        grammar_state & state = state_of(sampler);
        state.change([&] { llama_grammar_accept_str(*state.grammar, std::string(text, length)); });
        return true;
    });
}

char * llamacffi_json_schema_to_grammar(const char * schema, llamacffi_error * error) {
    return guarded<char *>(error, nullptr, [&] {
        return copied(json_schema_to_grammar(common_json::parse(schema), true));
    });
}

void llamacffi_free(char * text) {
    std::free(text);
}
