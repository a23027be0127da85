// What a chat template, or the parser of an answer, may use. A template comes out of a model file,
// and an answer out of a model: neither is trusted. The patch untrusted-templates.diff calls these
// functions from the Jinja engine and from the PEG parser; without limits in force they do nothing.

#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace llamacffi {

// Not a std::exception: upstream catches those inside templates, and goes on.
struct limit_reached {
    const char * what;
};

// A value that a template can change after it was made, so that it may hold itself.
struct changeable {
    virtual void forget() = 0;  // what it holds

  protected:
    ~changeable() = default;
};

struct limits {
    std::chrono::steady_clock::time_point deadline;
    size_t bytes;  // that may still be made
    int depth;     // of nested calls that may still be entered
    unsigned steps = 0;
    std::vector<std::shared_ptr<changeable>> changed = {};

    // Values that hold themselves would never be released.
    ~limits() {
        for (const auto & value : changed) {
            value->forget();
        }
    }
};

inline thread_local limits * limits_in_force = nullptr;

// Counts something that is about to be made.
inline void made(size_t bytes) {
    limits * const now = limits_in_force;
    if (now == nullptr) {
        return;
    }
    if (bytes > now->bytes) {
        throw limit_reached{"it makes too much text or too many values"};
    }
    now->bytes -= bytes;
    if ((++now->steps & 63) == 0 && std::chrono::steady_clock::now() > now->deadline) {
        throw limit_reached{"it takes too long"};
    }
}

// What one thing has taken of the limits; it is given back with the thing.
struct counted {
    size_t bytes = 0;

    counted() = default;
    counted(const counted &) {}  // a copy counts for itself
    counted & operator=(const counted &) { return *this; }
    ~counted() {
        if (limits_in_force != nullptr) {
            limits_in_force->bytes += bytes;
        }
    }
    void add(size_t more) {
        made(more);
        bytes += limits_in_force != nullptr ? more : 0;
    }
};

// Notes that a template has changed a value.
inline void changed(const std::shared_ptr<changeable> & value) {
    limits * const now = limits_in_force;
    if (now != nullptr && (now->changed.empty() || now->changed.back() != value)) {
        made(sizeof(value));
        now->changed.push_back(value);
    }
}

// Counts a nested call while it lives.
class nested {
  public:
    nested() {
        made(2);
        if (limits_in_force != nullptr && --limits_in_force->depth < 0) {
            limits_in_force->depth++;
            throw limit_reached{"it nests too deeply"};
        }
    }
    ~nested() {
        if (limits_in_force != nullptr) {
            limits_in_force->depth++;
        }
    }
    nested(const nested &) = delete;
    nested & operator=(const nested &) = delete;
};

// A rendered text: its pieces, and whether each came out of the messages instead of the template.
using pieces = std::vector<std::pair<bool, std::string>>;

// Where the engine records what it renders, if somebody wants to know.
inline thread_local std::vector<pieces> * renders = nullptr;

}  // namespace llamacffi
