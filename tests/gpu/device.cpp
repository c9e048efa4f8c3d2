// A CUDA device that is not there: a libcuda.so.1 for LD_PRELOAD in front of a CUDA build of torch, on a machine without a GPU.
//
// Memory is addresses with nothing behind them; kernels, cuBLAS and NCCL are counted and do nothing; copies to the host give zeros.
// What the host waits for is told to a hook. Whatever is not defined here is a stub of stubs.cpp, which building.py generates: returns 0.
#define __CUDA_API_VERSION_INTERNAL 1
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <dlfcn.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace {

const size_t ADDRESSES = size_t(1) << 46;
const size_t PAGE = size_t(2) << 20;
const size_t STAGED = size_t(64) << 10;  // a pageable copy to the device up to this size is buffered, and the host goes on

struct Counted { size_t calls = 0, bytes = 0; };

std::mutex lock;  // of all that follows
char* base = nullptr;
size_t next_address = 0, used = 0;
std::unordered_map<void*, size_t> blocks;
std::unordered_map<unsigned long long, size_t> segments;  // physical memory of expandable segments, by its handle
std::map<char*, size_t> pinned_blocks;
std::map<std::string, Counted> counts;
std::unordered_map<const void*, std::string> kernel_names;
std::unordered_map<const void*, size_t> kernel_launches;

std::atomic<size_t> launches{0}, handles{0x1000};
typedef void (*WaitHook)(const char* what);
std::atomic<WaitHook> wait_hook{nullptr};

size_t capacity() {
  static size_t bytes = [] { const char* gb = getenv("SIMULATED_GPU_GB"); return size_t((gb ? atof(gb) : 1000.0) * 1e9); }();
  return bytes;
}

void count(const std::string& what, size_t bytes = 0) {
  std::lock_guard<std::mutex> guard(lock);
  counts[what].calls++;
  counts[what].bytes += bytes;
}

void wait(const char* what) {
  count(what);
  if (WaitHook hook = wait_hook) hook(what);
}

bool on_device(const void* p) { return base && p >= base && p < base + ADDRESSES; }

bool pinned(const void* p) {
  std::lock_guard<std::mutex> guard(lock);
  auto after = pinned_blocks.upper_bound((char*)p);
  if (after == pinned_blocks.begin()) return false;
  --after;
  return (char*)p < after->first + after->second;
}

template <typename Handle> Handle new_handle() { return (Handle)(handles += 16); }

cudaError_t launch(const void* kernel) {
  launches++;
  std::lock_guard<std::mutex> guard(lock);
  kernel_launches[kernel]++;
  return cudaSuccess;
}

// Returns fresh addresses, of which nothing is taken yet; call it with the lock.
char* addresses(size_t bytes) {
  if (!base) base = (char*)mmap(nullptr, ADDRESSES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (next_address + bytes > ADDRESSES) abort();
  char* start = base + next_address;
  next_address += (bytes + PAGE - 1) / PAGE * PAGE;
  return start;
}

cudaError_t copy(void* to, const void* from, size_t bytes, bool async) {
  bool to_device = on_device(to), from_device = on_device(from);
  bool host_is_pinned = to_device == from_device || pinned(to_device ? from : to);
  const char* way = to_device ? (from_device ? "device to device" : "host to device") : from_device ? "device to host" : "host to host";
  count(std::string("copy ") + way + (host_is_pinned ? "" : ", pageable"), bytes);
  if (!to_device) {
    if (from_device) memset(to, 0, bytes); else memcpy(to, from, bytes);
  }
  if (to_device && from_device) return cudaSuccess;
  if (!async) wait("synchronous copy");
  else if (!host_is_pinned && (from_device || bytes > STAGED)) wait("copy of pageable memory");
  return cudaSuccess;
}

}  // namespace

// --- for Python, by ctypes

API size_t simulated_launches() { return launches; }
API void simulated_on_wait(WaitHook hook) { wait_hook = hook; }
API void simulated_clear() {
  std::lock_guard<std::mutex> guard(lock);
  counts.clear();
  kernel_launches.clear();
  launches = 0;
}
// Writes a line for each kind of call ("call", what, calls, bytes) and for each kernel ("kernel", name, launches, 0), between tabs.
API void simulated_report(const char* path) {
  std::lock_guard<std::mutex> guard(lock);
  FILE* file = fopen(path, "w");
  for (auto& one : counts) fprintf(file, "call\t%s\t%zu\t%zu\n", one.first.c_str(), one.second.calls, one.second.bytes);
  for (auto& one : kernel_launches) {
    auto name = kernel_names.find(one.first);
    fprintf(file, "kernel\t%s\t%zu\t0\n", name == kernel_names.end() ? "?" : name->second.c_str(), one.second);
  }
  fclose(file);
}

// --- kernels

struct LaunchConfig { dim3 grid, block; size_t shared; void* stream; };
thread_local std::vector<LaunchConfig> launch_configs;

API void __cudaRegisterFunction(void** module, const char* host_function, char* device_function, const char* name, int limit, uint3* tid,
                                uint3* bid, dim3* block, dim3* grid, int* warp) {
  typedef void (*Register)(void**, const char*, char*, const char*, int, uint3*, uint3*, dim3*, dim3*, int*);
  static auto real = (Register)dlsym(RTLD_NEXT, "__cudaRegisterFunction");
  kernel_names[host_function] = name;
  if (real) real(module, host_function, device_function, name, limit, tid, bid, block, grid, warp);
}
API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st* stream) {
  launch_configs.push_back({grid, block, shared, stream});
  return 0;
}
API cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  LaunchConfig last = launch_configs.back();
  launch_configs.pop_back();
  *grid = last.grid, *block = last.block, *shared = last.shared, *(void**)stream = last.stream;
  return cudaSuccess;
}
API cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* f) { *kernel = (cudaKernel_t)f; return cudaSuccess; }
API cudaError_t __cudaLaunchKernel(cudaKernel_t k, dim3, dim3, void**, size_t, cudaStream_t) { return launch((const void*)k); }
API cudaError_t cudaLaunchKernel(const void* f, dim3, dim3, void**, size_t, cudaStream_t) { return launch(f); }
API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t*, const void* f, void**) { return launch(f); }
API cudaError_t cudaLaunchCooperativeKernel(const void* f, dim3, dim3, void**, size_t, cudaStream_t) { return launch(f); }
API cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t function, void* data) { function(data); return cudaSuccess; }
API cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t callback, void* data, unsigned) {
  callback(stream, cudaSuccess, data);
  return cudaSuccess;
}
API cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* a, const void*) {
  memset(a, 0, sizeof *a);
  a->maxThreadsPerBlock = 1024, a->numRegs = 64, a->ptxVersion = 90, a->binaryVersion = 90, a->maxDynamicSharedSizeBytes = 232448;
  return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* n, const void*, int, size_t) { *n = 1; return cudaSuccess; }
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, const void*, int, size_t, unsigned) {
  *n = 1;
  return cudaSuccess;
}

// --- the device: an H100's sizes

API cudaError_t cudaGetDeviceCount(int* n) { *n = 1; return cudaSuccess; }
API cudaError_t cudaGetDevice(int* device) { *device = 0; return cudaSuccess; }
API cudaError_t cudaSetDevice(int) { return cudaSuccess; }
API cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "simulated H100");
  p->totalGlobalMem = capacity(), p->major = 9, p->minor = 0, p->multiProcessorCount = 132, p->warpSize = 32;
  p->maxThreadsPerBlock = 1024, p->maxThreadsPerMultiProcessor = 2048;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647, p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->sharedMemPerBlock = 49152, p->sharedMemPerBlockOptin = 232448, p->sharedMemPerMultiprocessor = 233472;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536, p->l2CacheSize = 50 << 20, p->totalConstMem = 65536;
  p->maxBlocksPerMultiProcessor = 32, p->memoryBusWidth = 5120, p->unifiedAddressing = 1, p->managedMemory = 1;
  p->concurrentKernels = 1, p->textureAlignment = 512, p->cooperativeLaunch = 1;
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetAttribute(int* v, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *v = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *v = 0; break;
    case cudaDevAttrMultiProcessorCount: *v = 132; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *v = 232448; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *v = 49152; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *v = 233472; break;
    case cudaDevAttrWarpSize: *v = 32; break;
    case cudaDevAttrMaxThreadsPerBlock: *v = 1024; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *v = 2048; break;
    case cudaDevAttrMaxGridDimX: *v = 2147483647; break;
    case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: *v = 65535; break;
    case cudaDevAttrMaxBlockDimX: case cudaDevAttrMaxBlockDimY: *v = 1024; break;
    case cudaDevAttrMaxBlockDimZ: *v = 64; break;
    case cudaDevAttrMaxRegistersPerBlock: case cudaDevAttrMaxRegistersPerMultiprocessor: *v = 65536; break;
    case cudaDevAttrL2CacheSize: *v = 50 << 20; break;
    case cudaDevAttrClockRate: *v = 1980000; break;
    case cudaDevAttrMemoryClockRate: *v = 2619000; break;
    case cudaDevAttrGlobalMemoryBusWidth: *v = 5120; break;
    default: *v = 1;
  }
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetPCIBusId(char* s, int n, int) { snprintf(s, n, "0000:00:00.0"); return cudaSuccess; }
API cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return cudaSuccess;
}
API cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { *can = 0; return cudaSuccess; }
API cudaError_t cudaDriverGetVersion(int* v) { *v = 13000; return cudaSuccess; }
API cudaError_t cudaRuntimeGetVersion(int* v) { *v = 13000; return cudaSuccess; }
API cudaError_t cudaGetLastError() { return cudaSuccess; }
API cudaError_t cudaPeekAtLastError() { return cudaSuccess; }

// --- memory

API cudaError_t cudaMalloc(void** p, size_t bytes) {
  std::lock_guard<std::mutex> guard(lock);
  size_t rounded = (bytes + 511) / 512 * 512;
  if (used + rounded > capacity()) return cudaErrorMemoryAllocation;
  *p = addresses(rounded);
  blocks[*p] = rounded;
  used += rounded;
  counts["cudaMalloc"].calls++;
  counts["cudaMalloc"].bytes += rounded;
  return cudaSuccess;
}
API cudaError_t cudaFree(void* p) {
  std::lock_guard<std::mutex> guard(lock);
  auto block = blocks.find(p);
  if (block == blocks.end()) return cudaSuccess;
  used -= block->second;
  blocks.erase(block);
  counts["cudaFree"].calls++;
  return cudaSuccess;
}
// of expandable segments: addresses are reserved, and physical memory is created and mapped there
API CUresult cuMemAddressReserve(CUdeviceptr* p, size_t bytes, size_t, CUdeviceptr, unsigned long long) {
  std::lock_guard<std::mutex> guard(lock);
  *p = (CUdeviceptr)addresses(bytes);
  return CUDA_SUCCESS;
}
API CUresult cuMemCreate(CUmemGenericAllocationHandle* handle, size_t bytes, const CUmemAllocationProp*, unsigned long long) {
  std::lock_guard<std::mutex> guard(lock);
  if (used + bytes > capacity()) return CUDA_ERROR_OUT_OF_MEMORY;
  *handle = new_handle<CUmemGenericAllocationHandle>();
  segments[*handle] = bytes;
  used += bytes;
  counts["cuMemCreate"].calls++;
  counts["cuMemCreate"].bytes += bytes;
  return CUDA_SUCCESS;
}
API CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  std::lock_guard<std::mutex> guard(lock);
  used -= segments[handle];
  segments.erase(handle);
  return CUDA_SUCCESS;
}
API cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t) { return cudaMalloc(p, bytes); }
API cudaError_t cudaFreeAsync(void* p, cudaStream_t) { return cudaFree(p); }
API cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  count("cudaHostAlloc", bytes);
  std::lock_guard<std::mutex> guard(lock);
  pinned_blocks[(char*)*p] = bytes;
  return cudaSuccess;
}
API cudaError_t cudaFreeHost(void* p) {
  std::lock_guard<std::mutex> guard(lock);
  auto block = pinned_blocks.find((char*)p);
  if (block == pinned_blocks.end()) return cudaSuccess;
  munmap(p, block->second);
  pinned_blocks.erase(block);
  return cudaSuccess;
}
API cudaError_t cudaHostRegister(void* p, size_t bytes, unsigned) {
  std::lock_guard<std::mutex> guard(lock);
  pinned_blocks[(char*)p] = bytes;
  return cudaSuccess;
}
API cudaError_t cudaHostUnregister(void* p) {
  std::lock_guard<std::mutex> guard(lock);
  pinned_blocks.erase((char*)p);
  return cudaSuccess;
}
API cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  *available = capacity() - used, *total = capacity();
  return cudaSuccess;
}
API cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) {
  memset(a, 0, sizeof *a);
  a->type = on_device(p) ? cudaMemoryTypeDevice : pinned(p) ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
  if (a->type != cudaMemoryTypeUnregistered) a->devicePointer = (void*)p;
  if (a->type == cudaMemoryTypeHost) a->hostPointer = (void*)p;
  return cudaSuccess;
}
API cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) { return copy(to, from, bytes, false); }
API cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  return copy(to, from, bytes, true);
}
API cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes, cudaStream_t) {
  return copy(to, from, bytes, true);
}
API cudaError_t cudaMemcpy2DAsync(void*, size_t, const void*, size_t, size_t width, size_t height, cudaMemcpyKind, cudaStream_t) {
  count("copy in two dimensions", width * height);
  return cudaSuccess;
}
API cudaError_t cudaMemcpyToSymbol(const void*, const void*, size_t, size_t, cudaMemcpyKind) { return cudaSuccess; }
API cudaError_t cudaGetSymbolAddress(void** p, const void*) { return cudaMalloc(p, 4096); }
API cudaError_t cudaMemset(void*, int, size_t bytes) { count("memset", bytes); return cudaSuccess; }
API cudaError_t cudaMemsetAsync(void*, int, size_t bytes, cudaStream_t) { count("memset", bytes); return cudaSuccess; }

// --- streams and events: all is over at once

API cudaError_t cudaStreamCreate(cudaStream_t* s) { *s = new_handle<cudaStream_t>(); return cudaSuccess; }
API cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) { return cudaStreamCreate(s); }
API cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, unsigned, int) { return cudaStreamCreate(s); }
API cudaError_t cudaStreamGetPriority(cudaStream_t, int* p) { *p = 0; return cudaSuccess; }
API cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
API cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
API cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
API cudaError_t cudaStreamSynchronize(cudaStream_t) { wait("cudaStreamSynchronize"); return cudaSuccess; }
API cudaError_t cudaDeviceSynchronize() { wait("cudaDeviceSynchronize"); return cudaSuccess; }
API cudaError_t cudaEventSynchronize(cudaEvent_t) { wait("cudaEventSynchronize"); return cudaSuccess; }
API cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* s) { *s = cudaStreamCaptureStatusNone; return cudaSuccess; }
API cudaError_t cudaStreamGetCaptureInfo(cudaStream_t, cudaStreamCaptureStatus* s, unsigned long long* id, cudaGraph_t*,
                                         const cudaGraphNode_t**, const cudaGraphEdgeData**, size_t*) {
  *s = cudaStreamCaptureStatusNone;
  if (id) *id = 0;
  return cudaSuccess;
}
API cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
API cudaError_t cudaEventCreate(cudaEvent_t* e) { *e = new_handle<cudaEvent_t>(); return cudaSuccess; }
API cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) { return cudaEventCreate(e); }
API cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
API cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
API cudaError_t cudaEventRecordWithFlags(cudaEvent_t, cudaStream_t, unsigned) { return cudaSuccess; }
API cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
API cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) { *ms = 1.0f; return cudaSuccess; }

// --- the driver, for Inductor and Triton

API CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
API CUresult cuDriverGetVersion(int* v) { *v = 13000; return CUDA_SUCCESS; }
API CUresult cuDevicePrimaryCtxGetState(CUdevice, unsigned* flags, int* active) {
  if (flags) *flags = 0;
  *active = 1;
  return CUDA_SUCCESS;
}
API CUresult cuDevicePrimaryCtxRetain(CUcontext* c, CUdevice) { *c = (CUcontext)0x10; return CUDA_SUCCESS; }
API CUresult cuCtxGetCurrent(CUcontext* c) { *c = (CUcontext)0x10; return CUDA_SUCCESS; }
API CUresult cuCtxGetDevice(CUdevice* d) { *d = 0; return CUDA_SUCCESS; }
API CUresult cuDeviceGet(CUdevice* d, int) { *d = 0; return CUDA_SUCCESS; }
API CUresult cuDeviceGetCount(int* n) { *n = 1; return CUDA_SUCCESS; }
API CUresult cuDeviceGetAttribute(int* v, CUdevice_attribute attribute, CUdevice device) {
  cudaDeviceGetAttribute(v, (cudaDeviceAttr)attribute, device);
  return CUDA_SUCCESS;
}
API CUresult cuGetErrorString(CUresult, const char** s) { *s = "simulated"; return CUDA_SUCCESS; }
API CUresult cuModuleLoadData(CUmodule* m, const void*) { *m = new_handle<CUmodule>(); return CUDA_SUCCESS; }
API CUresult cuModuleGetFunction(CUfunction* f, CUmodule, const char* name) {
  *f = new_handle<CUfunction>();
  std::lock_guard<std::mutex> guard(lock);
  kernel_names[*f] = std::string("triton ") + name;
  return CUDA_SUCCESS;
}
API CUresult cuModuleGetGlobal_v2(CUdeviceptr* p, size_t* n, CUmodule, const char*) { *p = 0x1000; if (n) *n = 0; return CUDA_SUCCESS; }
API CUresult cuFuncGetAttribute(int* v, CUfunction_attribute a, CUfunction) {
  *v = a == CU_FUNC_ATTRIBUTE_NUM_REGS ? 128 : a == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0;
  return CUDA_SUCCESS;
}
API CUresult cuLaunchKernelEx(const CUlaunchConfig*, CUfunction f, void**, void**) { launch((const void*)f); return CUDA_SUCCESS; }
API CUresult cuLaunchKernel(CUfunction f, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void**, void**) {
  launch((const void*)f);
  return CUDA_SUCCESS;
}
API CUresult cuPointerGetAttribute(void* data, CUpointer_attribute a, CUdeviceptr p) {
  if (a == CU_POINTER_ATTRIBUTE_DEVICE_POINTER) *(CUdeviceptr*)data = p;
  else *(unsigned*)data = CU_MEMORYTYPE_DEVICE;
  return CUDA_SUCCESS;
}
API CUresult cuOccupancyMaxActiveClusters(int* n, CUfunction, const CUlaunchConfig*) { *n = 1; return CUDA_SUCCESS; }
API CUresult cuStreamGetCtx_v2(CUstream, CUcontext* c, CUgreenCtx* g) {
  if (c) *c = (CUcontext)0x10;
  if (g) *g = nullptr;
  return CUDA_SUCCESS;
}
API int simulated_nothing() { return 0; }
API cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                                 cudaDriverEntryPointQueryResult* result) {
  void* own = dlsym(RTLD_DEFAULT, name);
  *function = own ? own : (void*)simulated_nothing;
  if (result) *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

// --- the management library, which counts devices without CUDA

API int nvmlInit() { return 0; }
API int nvmlInit_v2() { return 0; }
API int nvmlDeviceGetCount_v2(unsigned* n) { *n = 1; return 0; }
API int nvmlDeviceGetHandleByPciBusId_v2() { return 0; }
API int nvmlDeviceGetNvLinkRemoteDeviceType() { return 0; }
API int nvmlDeviceGetNvLinkRemotePciInfo_v2() { return 0; }
API int nvmlDeviceGetComputeRunningProcesses() { return 0; }
API int nvmlSystemGetCudaDriverVersion_v2() { return 0; }

// --- cuBLAS: types that its headers would give

typedef int Status;
struct MatmulHeuristic { uint64_t algorithm[8]; size_t workspace; int state; float waves; int reserved[4]; };

API Status cublasCreate_v2(void** handle) { *handle = new_handle<void*>(); return 0; }
API Status cublasGetMathMode(void*, int* mode) { *mode = 0; return 0; }
API Status cublasGetPointerMode_v2(void*, int* mode) { *mode = 0; return 0; }
API Status cublasLtMatmulDescCreate(void** d, int, int) { *d = new_handle<void*>(); return 0; }
API Status cublasLtMatmulPreferenceCreate(void** d) { *d = new_handle<void*>(); return 0; }
API Status cublasLtMatrixLayoutCreate(void** d, int, uint64_t, uint64_t, int64_t) { *d = new_handle<void*>(); return 0; }
API Status cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, MatmulHeuristic result[], int* n) {
  memset(result, 0, sizeof *result);
  *n = 1;
  return 0;
}
API size_t cublasLtGetVersion(void) { return 130100; }
