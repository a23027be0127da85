// The driver (libcuda) and cuBLAS, opened when they are first used instead of linked: so the library
// loads on machines without a GPU, and quantised models run without cuBLAS. Where one is missing, its
// functions return an error whose text says what to do.

#include <cublas_v2.h>
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <cstdlib>
#include <string>
#include <vector>

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

namespace {

constexpr const char * cublas_name = "libcublas.so." TEXT(CUBLAS_VER_MAJOR);
#if CUBLAS_VER_MAJOR >= 13
constexpr const char * cublas_package = "nvidia-cublas";
constexpr const char * cublas_folder  = "/nvidia/cu" TEXT(CUBLAS_VER_MAJOR) "/lib/";
#else
constexpr const char * cublas_package = "nvidia-cublas-cu" TEXT(CUBLAS_VER_MAJOR);
constexpr const char * cublas_folder  = "/nvidia/cublas/lib/";
#endif

struct opened {
    void *      handle = nullptr;
    std::string problem;  // why it could not be opened: the loader's words for each place tried

    explicit opened(const std::vector<std::string> & places) {
        for (const std::string & place : places) {
            handle = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
            if (handle) {
                problem.clear();
                return;
            }
            const char * words = dlerror();
            problem.append(problem.empty() ? "" : "; ").append(words ? words : place.c_str());
        }
    }
};

// First PyPI's package of cuBLAS, which is beside the package that this library is in.
std::vector<std::string> cublas_places() {
    if (const char * named = std::getenv("LLAMACFFI_CUBLAS")) {
        return {named};
    }
    std::vector<std::string> places;
    Dl_info                  self;
    char *                   path = nullptr;
    if (dladdr(reinterpret_cast<const void *>(&cublas_places), &self) != 0) {
        path = realpath(self.dli_fname, nullptr);
    }
    if (path) {
        std::string folder = path;  // PACKAGES/llamacffi_cuda/lib/libllama-cuda-*.so
        std::free(path);
        for (int up = 0; up < 3 && !folder.empty(); up++) {
            folder.resize(folder.rfind('/'));
        }
        places.push_back(folder + cublas_folder + cublas_name);
    }
    places.emplace_back(cublas_name);
    return places;
}

opened & driver() {
    static opened library({"libcuda.so.1"});
    return library;
}

opened & cublas() {
    static opened library(cublas_places());
    return library;
}

template <typename Function> Function * find(opened & library, const char * name) {
    return library.handle ? reinterpret_cast<Function *>(dlsym(library.handle, name)) : nullptr;
}

std::string in_words(int version) {
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string explain_devices() {
    int               count  = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaSuccess && count > 0) {
        return "";
    }
    const std::string start = "no CUDA device: ";
    int driver_version = 0;
    cudaDriverGetVersion(&driver_version);
    if (driver_version == 0) {
        return start + "there is no driver (" + driver().problem + ")";
    }
    if (status == cudaErrorInsufficientDriver) {
        return start + "the driver is for CUDA " + in_words(driver_version) + ", the library needs one for CUDA " +
               in_words(CUDART_VERSION / 1000 * 1000) + " or newer";
    }
    return start + cudaGetErrorString(status == cudaSuccess ? cudaErrorNoDevice : status);
}

}  // namespace

// For Python, through the registry: why there is no CUDA device; "" if there is one.
extern "C" const char * llamacffi_cuda_problem(void) {
    static const std::string problem = explain_devices();
    return problem.c_str();
}

// The declarations in the headers have C linkage: a compiler refuses other parameters than theirs.
#define FORWARD(library, missing, Result, name, parameters, arguments)        \
    extern "C" Result name parameters {                                       \
        static const auto function = find<Result parameters>(library, #name); \
        return function ? function arguments : missing;                       \
    }

// -- the driver -------------------------------------------------------------------------------------
#define DRIVER(name, parameters, arguments) \
    FORWARD(driver(), CUDA_ERROR_NO_DEVICE, CUresult, name, parameters, arguments)

DRIVER(cuDeviceGet, (CUdevice * device, int ordinal), (device, ordinal))
DRIVER(cuDeviceGetAttribute, (int * value, CUdevice_attribute attribute, CUdevice device),
       (value, attribute, device))
DRIVER(cuMemAddressFree, (CUdeviceptr pointer, size_t size), (pointer, size))
DRIVER(cuMemAddressReserve,
       (CUdeviceptr * pointer, size_t size, size_t alignment, CUdeviceptr address,
        unsigned long long flags),
       (pointer, size, alignment, address, flags))
DRIVER(cuMemCreate,
       (CUmemGenericAllocationHandle * handle, size_t size, const CUmemAllocationProp * properties,
        unsigned long long flags),
       (handle, size, properties, flags))
DRIVER(cuMemGetAllocationGranularity,
       (size_t * granularity, const CUmemAllocationProp * properties,
        CUmemAllocationGranularity_flags option),
       (granularity, properties, option))
DRIVER(cuMemMap,
       (CUdeviceptr pointer, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
        unsigned long long flags),
       (pointer, size, offset, handle, flags))
DRIVER(cuMemRelease, (CUmemGenericAllocationHandle handle), (handle))
DRIVER(cuMemSetAccess,
       (CUdeviceptr pointer, size_t size, const CUmemAccessDesc * access, size_t count),
       (pointer, size, access, count))
DRIVER(cuMemUnmap, (CUdeviceptr pointer, size_t size), (pointer, size))

extern "C" CUresult CUDAAPI cuGetErrorString(CUresult error, const char ** text) {
    static const auto function = find<decltype(cuGetErrorString)>(driver(), "cuGetErrorString");
    if (function) {
        return function(error, text);
    }
    *text = llamacffi_cuda_problem();
    return CUDA_SUCCESS;
}

// -- cuBLAS -----------------------------------------------------------------------------------------
#define CUBLAS(name, parameters, arguments) \
    FORWARD(cublas(), CUBLAS_STATUS_NOT_INITIALIZED, cublasStatus_t, name, parameters, arguments)

CUBLAS(cublasCreate_v2, (cublasHandle_t * handle), (handle))
CUBLAS(cublasDestroy_v2, (cublasHandle_t handle), (handle))
CUBLAS(cublasSetMathMode, (cublasHandle_t handle, cublasMath_t mode), (handle, mode))
CUBLAS(cublasSetStream_v2, (cublasHandle_t handle, cudaStream_t stream), (handle, stream))
CUBLAS(cublasSetWorkspace_v2, (cublasHandle_t handle, void * workspace, size_t size),
       (handle, workspace, size))
CUBLAS(cublasSgemm_v2,
       (cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k,
        const float * alpha, const float * a, int lda, const float * b, int ldb, const float * beta,
        float * c, int ldc),
       (handle, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc))
CUBLAS(cublasSgemmBatched,
       (cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k,
        const float * alpha, const float * const a[], int lda, const float * const b[], int ldb,
        const float * beta, float * const c[], int ldc, int count),
       (handle, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, count))
CUBLAS(cublasSgemmStridedBatched,
       (cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k,
        const float * alpha, const float * a, int lda, long long int stridea, const float * b, int ldb,
        long long int strideb, const float * beta, float * c, int ldc, long long int stridec,
        int count),
       (handle, transa, transb, m, n, k, alpha, a, lda, stridea, b, ldb, strideb, beta, c, ldc, stridec,
        count))
CUBLAS(cublasStrsmBatched,
       (cublasHandle_t handle, cublasSideMode_t side, cublasFillMode_t uplo, cublasOperation_t trans,
        cublasDiagType_t diag, int m, int n, const float * alpha, const float * const a[], int lda,
        float * const b[], int ldb, int count),
       (handle, side, uplo, trans, diag, m, n, alpha, a, lda, b, ldb, count))
CUBLAS(cublasGemmEx,
       (cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k,
        const void * alpha, const void * a, cudaDataType typea, int lda, const void * b,
        cudaDataType typeb, int ldb, const void * beta, void * c, cudaDataType typec, int ldc,
        cublasComputeType_t compute, cublasGemmAlgo_t algorithm),
       (handle, transa, transb, m, n, k, alpha, a, typea, lda, b, typeb, ldb, beta, c, typec, ldc,
        compute, algorithm))
CUBLAS(cublasGemmBatchedEx,
       (cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k,
        const void * alpha, const void * const a[], cudaDataType typea, int lda, const void * const b[],
        cudaDataType typeb, int ldb, const void * beta, void * const c[], cudaDataType typec, int ldc,
        int count, cublasComputeType_t compute, cublasGemmAlgo_t algorithm),
       (handle, transa, transb, m, n, k, alpha, a, typea, lda, b, typeb, ldb, beta, c, typec, ldc, count,
        compute, algorithm))
CUBLAS(cublasGemmStridedBatchedEx,
       (cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k,
        const void * alpha, const void * a, cudaDataType typea, int lda, long long int stridea,
        const void * b, cudaDataType typeb, int ldb, long long int strideb, const void * beta, void * c,
        cudaDataType typec, int ldc, long long int stridec, int count, cublasComputeType_t compute,
        cublasGemmAlgo_t algorithm),
       (handle, transa, transb, m, n, k, alpha, a, typea, lda, stridea, b, typeb, ldb, strideb, beta, c,
        typec, ldc, stridec, count, compute, algorithm))

extern "C" const char * CUBLASWINAPI cublasGetStatusString(cublasStatus_t status) {
    static const auto function = find<decltype(cublasGetStatusString)>(cublas(), "cublasGetStatusString");
    if (function) {
        return function(status);
    }
    static const std::string problem =
        "this model needs cuBLAS, which cannot be opened (" + cublas().problem + "). To install it: pip install " +
        cublas_package + "; or name the file in LLAMACFFI_CUBLAS";
    return problem.c_str();
}
