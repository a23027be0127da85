// What the parts of the shim know of devices on other machines.

#pragma once

#include "llamacffi-rpc.h"
#include "shim.h"

namespace llamacffi {

// Remembers which flag stops the work of a context.
void note_flag(const llama_context * ctx, llamacffi_progress * progress);
void forget_flag(const llama_context * ctx);

// While it lives, the flag ends this thread's waits for servers, too.
struct interruptible_waits {
    explicit interruptible_waits(llamacffi_progress * progress);
    explicit interruptible_waits(const llama_context * ctx);
    ~interruptible_waits();
    interruptible_waits(const interruptible_waits &) = delete;
    interruptible_waits & operator=(const interruptible_waits &) = delete;
};

}  // namespace llamacffi
