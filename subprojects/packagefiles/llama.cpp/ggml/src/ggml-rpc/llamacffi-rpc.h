// Connections to RPC servers that come and go with the models that use them, and may fail. The patch
// rpc-failures.diff implements this in ggml-rpc.cpp; llamacffi's shim uses it.
//
// Upstream connects by itself, registers a server's devices for every model of the process, and ends
// the process when a connection breaks. Here the caller brings a connected socket, whose handshake is
// done; the devices are the caller's; and what fails is noted on the thread that waited for it.

#pragma once

#include "ggml-backend.h"

#include <cstdint>
#include <string>
#include <vector>

// The part of the timeout that an interrupted call still waits before it gives up the connection. A
// server that computes cannot be told to stop, and the weights would have to be sent again.
#define LLAMACFFI_RPC_GRACE_PART 10
// How long a server waits for the first words of who has connected.
#define LLAMACFFI_RPC_HELLO_MS 5000

struct llamacffi_rpc_connection;

// Takes over a socket. The devices are named RPC<first>, RPC<first + 1>, ...; timeout_ms is how long
// the server may let us wait.
llamacffi_rpc_connection * llamacffi_rpc_connect(
    intptr_t fd, const char * endpoint, uint32_t n_devices, uint32_t first, int64_t timeout_ms);
// Only when nothing uses the devices any more.
void llamacffi_rpc_disconnect(llamacffi_rpc_connection * connection);
ggml_backend_dev_t llamacffi_rpc_device(llamacffi_rpc_connection * connection, size_t index);
int llamacffi_rpc_connections();  // how many there are

// Whether this thread has met a connection that failed since the last take_failure, and how.
bool llamacffi_rpc_failed();
std::string llamacffi_rpc_take_failure();
// Asked while this thread waits for a server; true ends the wait soon, and perhaps the connection.
void llamacffi_rpc_set_abort(bool (*callback)(void *), void * data);

// Answers one client, until it closes the connection or sends what cannot be understood.
void llamacffi_rpc_serve(
    intptr_t fd, const char * cache_dir, const std::vector<ggml_backend_t> & backends);
