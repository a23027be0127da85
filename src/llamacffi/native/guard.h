// What every part of the shim shares: running C++ so that nothing but an error comes out of it.

#pragma once

#include "llamacffi-rpc.h"
#include "shim.h"

#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

namespace llamacffi {

// An assertion of ggml that failed on a guarded thread: see on_abort in shim.cpp.
struct failed_assertion : std::runtime_error {
    using std::runtime_error::runtime_error;
};

inline thread_local int guard_depth = 0;

// Warnings and errors of the guarded call that runs on this thread, for its error message.
inline thread_local std::string * capture = nullptr;

// Whether lines below errors that this thread logs are for debugging only.
inline thread_local bool demote_log = false;

void report(llamacffi_error * error, int32_t kind, const char * what, const std::string & log);

// A text for the caller, who frees it with llamacffi_free.
inline char * copied(const std::string & text) {
    auto * copy = static_cast<char *>(std::malloc(text.size() + 1));
    if (copy == nullptr) {
        throw std::bad_alloc();
    }
    std::memcpy(copy, text.c_str(), text.size() + 1);
    return copy;
}

// Runs work; on failure reports and returns fallback.
template <typename Result, typename Work>
Result guarded(llamacffi_error * error, Result fallback, Work && work) noexcept {
    error->kind = LLAMACFFI_ERROR_NONE;
    error->message[0] = '\0';
    std::string log;
    std::string * const outer_capture = std::exchange(capture, &log);
    if (guard_depth == 0 && llamacffi_rpc_failed()) {
        llamacffi_rpc_take_failure();  // of a call that nobody guarded
    }
    guard_depth++;
    Result result = fallback;
    try {
        result = work();
        if (!log.empty()) {
            report(error, LLAMACFFI_ERROR_NONE, "", log);
        }
    } catch (const failed_assertion & failure) {
        report(error, LLAMACFFI_ERROR_ASSERTION, failure.what(), log);
    } catch (const std::bad_alloc &) {
        report(error, LLAMACFFI_ERROR_MEMORY, "out of memory", log);
    } catch (const std::exception & failure) {
        report(error, LLAMACFFI_ERROR_EXCEPTION, failure.what(), log);
    } catch (...) {
        report(error, LLAMACFFI_ERROR_EXCEPTION, "unknown C++ exception", log);
    }
    guard_depth--;
    capture = outer_capture;
    if (guard_depth == 0 && llamacffi_rpc_failed()) {
        // llama.cpp went on with zeros: whatever it returned or threw means nothing.
        const bool abandoned = error->kind == LLAMACFFI_ERROR_ASSERTION;
        report(error, abandoned ? LLAMACFFI_ERROR_REMOTE_ASSERTION : LLAMACFFI_ERROR_REMOTE,
               llamacffi_rpc_take_failure().c_str(), {});
        return fallback;
    }
    return result;
}

}  // namespace llamacffi
