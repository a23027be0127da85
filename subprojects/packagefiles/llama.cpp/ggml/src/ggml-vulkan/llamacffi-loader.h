#pragma once

// Why the Vulkan loader cannot be used; nullptr if it can. Opens it when called first.
const char * llamacffi_vulkan_loader_problem();
