// The few functions of the Vulkan loader that ggml-vulkan calls by name, so that nothing is linked with
// it: a machine without one can open the library, and is told what is missing when devices are listed.

#include "ggml-vulkan-types.h"
#include "llamacffi-loader.h"

#include <string>

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace {

struct loader {
    PFN_vkGetInstanceProcAddr find = nullptr;
    std::string problem;
};

#ifdef _WIN32
loader open_loader() {
    loader opened;
    // The system's, not one that lies in the current folder.
    HMODULE handle = LoadLibraryExA("vulkan-1.dll", nullptr, LOAD_LIBRARY_SEARCH_SYSTEM32);
    if (handle == nullptr) {
        opened.problem = "the Vulkan loader vulkan-1.dll cannot be opened (error " + std::to_string(GetLastError()) + ")";
        return opened;
    }
    opened.find = reinterpret_cast<PFN_vkGetInstanceProcAddr>(GetProcAddress(handle, "vkGetInstanceProcAddr"));
#else
loader open_loader() {
    loader opened;
#ifdef __APPLE__
    const char * const names[] = {"libvulkan.1.dylib", "libvulkan.dylib", "libMoltenVK.dylib"};
#else
    const char * const names[] = {"libvulkan.so.1"};
#endif
    void * handle = nullptr;
    for (const char * name : names) {
        handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
        if (handle != nullptr) {
            break;
        }
        const char * why = dlerror();
        opened.problem = std::string("the Vulkan loader cannot be opened: ") + (why != nullptr ? why : name);
    }
    if (handle == nullptr) {
        return opened;
    }
    opened.problem.clear();
    opened.find = reinterpret_cast<PFN_vkGetInstanceProcAddr>(dlsym(handle, "vkGetInstanceProcAddr"));
#endif
    if (opened.find == nullptr || opened.find(nullptr, "vkEnumerateInstanceVersion") == nullptr) {
        opened.problem = "the Vulkan loader is too old: it has no vkEnumerateInstanceVersion";
    }
    return opened;
}

const loader & the_loader() {
    static const loader opened = open_loader();
    return opened;
}

}  // namespace

const char * llamacffi_vulkan_loader_problem() {
    return the_loader().problem.empty() ? nullptr : the_loader().problem.c_str();
}

// Called only once the loader is known to be there: see ggml_vk_instance_init.
extern "C" VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL vkGetInstanceProcAddr(VkInstance instance, const char * name) {
    return the_loader().find(instance, name);
}

extern "C" VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL vkGetDeviceProcAddr(VkDevice device, const char * name) {
    return ggml_vk_default_dispatcher().vkGetDeviceProcAddr(device, name);
}

extern "C" VKAPI_ATTR void VKAPI_CALL vkGetPhysicalDeviceFeatures2(
        VkPhysicalDevice device, VkPhysicalDeviceFeatures2 * features) {
    ggml_vk_default_dispatcher().vkGetPhysicalDeviceFeatures2(device, features);
}

extern "C" VKAPI_ATTR void VKAPI_CALL vkCmdCopyBuffer(
        VkCommandBuffer commands, VkBuffer from, VkBuffer to, uint32_t n_regions, const VkBufferCopy * regions) {
    ggml_vk_default_dispatcher().vkCmdCopyBuffer(commands, from, to, n_regions, regions);
}
